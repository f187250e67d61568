import pytest

from cardiac_cine.errors import InputError
from cardiac_cine.flags import flag
from cardiac_cine.training import amp_dtype
from cardiac_cine.workflow import Options


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), ("true", True), ("false", False), ("False", False)]
)
def test_a_switch_may_come_as_a_word(value, expected):
    assert flag("overlays", value) is expected


@pytest.mark.parametrize("value", ["no", "", 0, None])
def test_anything_else_is_named(value):
    with pytest.raises(InputError, match=rf"overlays is {value!r}, expected true or false"):
        flag("overlays", value)


def test_a_word_of_the_command_line_is_not_taken_for_true():
    assert str(amp_dtype("cpu", enabled="false")) == "torch.float32"
    options = Options(overwrite="false", stabilise="false", report="true")
    assert (options.overwrite, options.stabilise, options.report) == (False, False, True)

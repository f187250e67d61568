"""A cine shown as one series for each phase, in DICOM JSON."""

from cardiac_cine.annotation.phase_series import PhaseImage, shown_images, shown_series


def _item(**tags):
    return {tag.removeprefix("t"): {"vr": "UI", "Value": [value]} for tag, value in tags.items()}


def _image(uid, series="cine", number=9):
    return _item(t00080018=uid, t0020000E=series, t00200013=number, t00280010=96)


def _shown():
    """Two phases of two slices, end-systole (images c and d) first, in one series."""
    return {
        "c": PhaseImage("es", "cine", "ES", -2, 0, 2),
        "d": PhaseImage("es", "cine", "ES", -2, 1, 2),
        "a": PhaseImage("ed", "cine", "ED", -1, 0, 2),
        "b": PhaseImage("ed", "cine", "ED", -1, 1, 2),
    }


def _values(items, *tags):
    return [tuple(item[tag]["Value"][0] for tag in tags) for item in items]


def test_the_series_of_a_cine_gives_way_to_its_phases():
    series = [_item(t0020000E="scout", t00200011=1), _item(t0020000E="cine", t00200011=5, t00080060="MR")]
    shown = shown_series(series, _shown())
    assert _values(shown, "0020000E", "00200011") == [("es", -2), ("ed", -1), ("scout", 1)]
    assert _values(shown[:2], "0008103E", "00201209", "00080060") == [("ES", 2, "MR"), ("ED", 2, "MR")]
    assert series[1]["0020000E"]["Value"] == ["cine"]


def test_slices_in_series_of_their_own_become_one_series_a_phase():
    shown = {
        "a": PhaseImage("ed", "slice1", "ED", -1, 0, 2),
        "b": PhaseImage("ed", "slice2", "ED", -1, 1, 2),
    }
    series = [_item(t0020000E="slice1"), _item(t0020000E="slice2")]
    assert _values(shown_series(series, shown), "0020000E", "00201209") == [("ed", 2)]


def test_a_study_without_a_cine_is_as_it_was():
    series, images = [_item(t0020000E="scout")], [_image("x", "scout")]
    assert shown_series(series, {}) == series
    assert shown_images(images, {}) == images
    assert shown_series([], _shown()) == shown_images([], _shown()) == []


def test_images_go_to_their_phases_in_the_order_of_the_slices_whatever_their_numbers():
    images = [_image("x", "scout", 1), *(_image(uid, number=n) for n, uid in enumerate("dabc", start=1))]
    shown = shown_images(images, _shown())
    assert _values(shown, "00080018", "0020000E", "00200013") == [
        ("c", "es", 1),
        ("d", "es", 2),
        ("a", "ed", 1),
        ("b", "ed", 2),
        ("x", "scout", 1),
    ]
    assert _values(shown, "00280010") == [(96,)] * 5


def _segmentation(*uids):
    instances = [_item(t00081155=uid) for uid in uids]
    reference = _item(t0020000E="cine") | {"0008114A": {"vr": "SQ", "Value": instances}}
    return _image("seg", "segs") | {"00081115": {"vr": "SQ", "Value": [reference]}}


def test_what_refers_to_one_phase_refers_to_its_series():
    [one, two, none] = shown_images([_segmentation("a", "b"), _segmentation("a", "c"), _segmentation("z")], _shown())
    referenced = [_values(item["00081115"]["Value"], "0020000E") for item in (one, two, none)]
    assert referenced == [[("ed",)], [("cine",)], [("cine",)]]

from cardiac_cine.markdown import table


def test_a_table_has_a_head_a_rule_and_rows():
    rows = (row for row in [("none", ""), ("blur", "0.91")])
    assert table(["level", "Dice"], rows) == "| level | Dice |\n| --- | --- |\n| none |  |\n| blur | 0.91 |"
    assert table(["level"], []) == "| level |\n| --- |"

"""The alarm names one cause where one explains the other, and growth only while it goes on."""

from linlocal.analysis.probing.collapse import Alarm, Condition, Limits

WELL = Condition(scale=1.0, offset=0.2, spread=0.5, effective_rank=64.0, dead_units=0.0)


def judged(*later):
    alarm = Alarm(Limits())
    return [list(alarm.judge(1, found)) for found in (WELL, *later)]


def test_a_total_collapse_is_not_told_as_a_dimensional_one_as_well():
    narrow = Condition(1.0, 0.2, 0.5, effective_rank=1.0, dead_units=0.0)
    alike = Condition(1.0, 0.2, spread=0.0, effective_rank=1.0, dead_units=0.0)
    assert judged(narrow, alike) == [[], ["dimensional"], ["total"]]


def test_activities_that_have_grown_and_stay_are_told_once():
    grown, more = (Condition(scale, 0.2, 0.5 * scale, 64.0, 0.0) for scale in (200.0, 300.0))
    assert judged(grown, grown, more) == [[], ["growth"], [], ["growth"]]

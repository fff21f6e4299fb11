"""What several processes know of the platform, as one."""

from dataclasses import replace

from tasks.core.platform_state import PlatformState, Step, joint_state


class TestTogether:
    """What several processes know, as one."""

    def test_slots_are_added_up(self) -> None:
        first = PlatformState(slots=10, slots_in_use=3, slots_withheld=5, throttled_since=7.0)
        second = PlatformState(slots=10, slots_in_use=4, slots_withheld=8, throttled_since=6.0)
        both = joint_state([first, second])
        assert (both.slots, both.slots_in_use, both.slots_withheld) == (20, 7, 13)
        assert (both.throttled_since, both.processes, both.processes_failing) == (6, 2, 0)

    def test_it_is_down_since_the_first_of_them_found_it_so_and_the_next_try_is_anybodys(self) -> None:
        first = PlatformState(
            failing=Step.PUT,
            failing_since=5,
            is_down=True,
            http_status=503,
            next_try_at=31,
            processes_failing=1,
        )
        second = PlatformState(
            failing=Step.PUT, failing_since=4, is_down=True, next_try_at=30, processes_failing=1
        )
        both = joint_state([first, PlatformState(), second])
        assert (both.failing, both.is_down, both.failing_since, both.next_try_at) == (Step.PUT, True, 4, 30)
        assert (both.http_status, both.processes_failing, both.processes) == (None, 2, 3)
        trying = replace(first, next_try_at=None)
        assert joint_state([trying, second]).next_try_at is None, "one is under way"

    def test_down_is_worse_than_a_few_faults(self) -> None:
        few = PlatformState(failing=Step.PRESIGN, failing_since=1, next_try_at=2)
        down = PlatformState(failing=Step.PUT, failing_since=9, is_down=True, next_try_at=10)
        assert joint_state([few, down]).failing is Step.PUT

    def test_a_process_without_slots_does_not_count(self) -> None:
        assert joint_state([PlatformState(processes=0), PlatformState(slots=20)]).processes == 1

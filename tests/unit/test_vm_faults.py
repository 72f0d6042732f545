"""Every fault that the bed offers has a test that shows that it bites."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuilder.errors import ImagebuilderError
from imagebuilder.vm.faults import FAULTS, apply
from imagebuilder.vm.plugin import SCENARIOS

BEDS = Path(__file__).parents[1] / "vm"
BITES: Mapping[str, tuple[Path, str]] = {
    "power-cut": (BEDS / "test_power.py", "test_a_power_cut_ends_the_machine_at_once_and_its_memory_is_gone"),
    "power-on": (BEDS / "test_power.py", "test_a_power_cut_ends_the_machine_at_once_and_its_memory_is_gone"),
    "reset": (BEDS / "test_power.py", "test_a_reset_starts_the_machine_afresh_without_switching_it_off"),
    "freeze": (BEDS / "test_power.py", "test_a_frozen_machine_stands_still_and_goes_on_where_it_was"),
    "unfreeze": (BEDS / "test_power.py", "test_a_frozen_machine_stands_still_and_goes_on_where_it_was"),
    "clock": (SCENARIOS / "test_faults.py", "test_a_jumped_clock_is_wrong_by_as_much"),
    "slow-disk": (SCENARIOS / "test_faults.py", "test_disks_get_slow_fail_and_fill_and_recover"),
    "failing-disk": (SCENARIOS / "test_faults.py", "test_disks_get_slow_fail_and_fill_and_recover"),
    "full-disk": (SCENARIOS / "test_faults.py", "test_disks_get_slow_fail_and_fill_and_recover"),
    "latency": (SCENARIOS / "test_faults.py", "test_a_delayed_cable_delays_every_answer"),
    "unplug": (BEDS / "test_links.py", "test_an_unplugged_cable_is_silent_until_it_is_plugged_in"),
    "plug": (BEDS / "test_links.py", "test_an_unplugged_cable_is_silent_until_it_is_plugged_in"),
    "loss": (BEDS / "test_links.py", "test_a_link_loses_as_much_as_it_is_told_to"),
    "bandwidth": (BEDS / "test_links.py", "test_a_narrow_link_lets_no_more_through_in_either_direction"),
    "only-ip": (BEDS / "test_links.py", "test_a_link_lets_one_version_of_ip_pass"),
    "swallow": (BEDS / "test_links.py", "test_a_link_swallows_large_packets_and_what_comes_from_a_dead_port"),
    "mtu": (BEDS / "test_links.py", "test_a_small_mtu_is_noticed_by_those_who_forbid_fragments"),
    "line-address": (BEDS / "test_links.py", "test_the_home_line_changes_its_address_and_gets_the_first_one_back"),
    "nat-rebind": (BEDS / "test_links.py", "test_a_rebinding_router_gives_a_connection_another_port"),
    "dns-down": (BEDS / "test_links.py", "test_names_can_be_switched_off_and_on"),
    "dns-lie": (BEDS / "test_links.py", "test_a_lie_is_told_and_does_not_validate_and_the_truth_comes_back"),
    "acme-down": (BEDS / "test_world.py", "test_the_topologys_authority_answers_everywhere_until_it_is_down"),
    "acme-error": (BEDS / "test_world.py", "test_the_topologys_authority_answers_everywhere_until_it_is_down"),
    "mend": (BEDS / "test_links.py", "test_a_link_loses_as_much_as_it_is_told_to"),
}
"""Where each fault is seen to bite; who adds a fault says where here."""


def test_every_fault_is_seen_to_bite_somewhere() -> None:
    assert set(BITES) == set(FAULTS)
    for name, (file, test) in BITES.items():
        defined = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert test in defined, f"{name}: {file.name} has no {test}"


def test_a_fault_that_there_is_none_of_is_answered_with_those_there_are() -> None:
    with pytest.raises(ImagebuilderError, match="'flood'") as caught:
        apply(None, "flood", ())  # type: ignore[arg-type] # nobody asks the pair

    assert "power-cut" in (caught.value.hint or "")

"""The floors of the GPU benchmark, counted by hand on a picture of two tiles."""

import types

import pytest


@pytest.fixture
def floor(import_benchmark) -> types.ModuleType:
    return import_benchmark("gpu_floor")


@pytest.fixture
def work(floor):
    """10 Gaussians of which 4 are visible, in 5 pairs, on 17 x 2 pixels: two tiles."""
    return floor.Work(gaussians=10, visible=4, pairs=5, width=17, height=2)


def test_bytes_of_the_forward_pass(floor, work):
    projection = 10 * 44 + 4 * 192 + 4 * 36
    depth_sort = 4 * 8 * (1 + 2 * 4)  # four passes over 32 bits
    tile_sort = 5 * 6 * (1 + 2)  # one pass over the two bits that two tiles and the end of the list take
    drawing = 5 * (4 + 36) + 34 * 16
    assert floor.forward_bytes(work) == projection + depth_sort + tile_sort + drawing


def test_bytes_of_the_backward_pass(floor, work):
    assert floor.backward_bytes(work) == 34 * 28 + 5 * (4 + 36 + 36 + 36) + 4 * 236 + 10 * 236


def test_given_colors_take_the_place_of_harmonics(floor, work):
    colored = floor.Work(**{**vars(work), "channels": 32, "color_floats": 32})
    more = floor.forward_bytes(colored) - floor.forward_bytes(work)
    assert more == 4 * (32 - 48) * 4 + 4 * 29 * 4 + 5 * 29 * 4 + 34 * 29 * 4
    assert floor.forward_operations(colored) == 5 * 256 * (18 + 64)


@pytest.mark.parametrize(("bits", "moved"), [(8, 6 * 3), (9, 6 * 5), (16, 6 * 5), (17, 8 * 7), (32, 8 * 9)])
def test_bytes_of_sorting_a_row(floor, bits, moved):
    assert floor.sort_bytes(1, bits) == moved
    assert floor.sort_bytes(0, bits) == 0


def test_times_are_those_of_all_views_at_the_rates(floor, work):
    device = floor.Device(bandwidth_tb=2.0, tflops=4.0)
    moved = floor.forward_bytes(work)
    assert floor.memory_ms((work, work), device, backward=False) == pytest.approx(1e3 * 2 * moved / 2e12)
    moved += floor.backward_bytes(work)
    assert floor.memory_ms((work,), device, backward=True) == pytest.approx(1e3 * moved / 2e12)
    done = 5 * 256 * (24 + 51)
    assert floor.operations_ms((work,), device, backward=True) == pytest.approx(1e3 * done / 4e12)

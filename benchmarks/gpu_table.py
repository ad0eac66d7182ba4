"""The table of the GPU benchmark, in Markdown; a dash where there is no figure."""

from collections.abc import Mapping

from garden import Row, View
from gpu_floor import Device, Work, memory_ms, operations_ms

# Passes by their names in GpuMethod.
PASSES = {"forward": "forward", "backward": "forward+backward"}
# What each peer is compared with: one that has a process to itself, with splax when it takes no turns.
ALONE = "splax alone"
PEERS = {"gsplat": "splax", "rival": ALONE}


class Table:
    """Prints rows.

    Args:
        peers: methods that are compared with splax, of :data:`PEERS`.
        device: whose rates floors are computed from.
    """

    def __init__(self, peers: tuple[str, ...], device: Device) -> None:
        self.peers = peers
        self.device = device

    def print_header(self) -> None:
        """Prints the names of the columns."""
        header = ["scene", "picture", "Gaussians (visible)", "pairs", "pass", "splax, ms"]
        for peer in self.peers:
            header += [f"{ALONE}, ms"] * (PEERS[peer] == ALONE) + [f"{peer}, ms", f"{peer} / {PEERS[peer]}"]
        header += ["bytes, ms", "operations, ms at most"]
        _print_cells(header)
        _print_cells(["---"] * len(header))

    def print_pass(
        self, row: Row, view: View, name: str, times: Mapping[str, float | None], work: tuple[Work, ...]
    ) -> None:
        """Prints medians in milliseconds, by method, and the floors of what there was to do."""
        floors = ["-", "-"]
        if work:
            backward = name == "backward"
            limits = (memory_ms, operations_ms)
            floors = [f"{limit(work, self.device, backward=backward):.3f}" for limit in limits]
        self._print(row, view, PASSES[name], times, work, floors)

    def print_peaks(
        self, row: Row, view: View, peaks: Mapping[str, float | None], work: tuple[Work, ...]
    ) -> None:
        """Prints megabytes, by method."""
        self._print(row, view, "peak, MB", peaks, work, ["-", "-"])

    def _print(self, row, view, what, figures, work, floors):
        cells = [_cell(figures.get("splax"))]
        for peer in self.peers:
            splax, figure = figures.get(PEERS[peer]), figures.get(peer)
            cells += [_cell(splax)] * (PEERS[peer] == ALONE)
            cells += [_cell(figure), f"{figure / splax:.2f}x" if figure is not None and splax else "-"]
        _print_cells([row.scene, row.picture, *_counts(view, work), what, *cells, *floors])


def _counts(view, work):
    """Gaussians of the scene; visible ones and pairs of all views together."""
    if not work:
        return [f"{len(view.means):,}", "-"]
    visible, pairs = (sum(getattr(one, name) for one in work) for name in ("visible", "pairs"))
    return [f"{len(view.means):,} ({visible:,})", f"{pairs:,}"]


def _cell(figure):
    return "-" if figure is None else f"{figure:.2f}"


def _print_cells(cells):
    print("| " + " | ".join(cells) + " |", flush=True)

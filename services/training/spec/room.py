"""Whether a device has room for a job. Imports no torch.

The service asks when a job is submitted, and the trainer before it begins. Both count only what the job needs whatever
happens, so a job that has room by this count may still run out of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.errors import TooLargeToTrain
from services.training.files.steps import IN_FILE_FROM
from services.training.files.summary import DatasetSummary
from services.training.spec import tasks
from services.training.spec.fields import Forecast, Spec
from services.training.spec.footprint import NUMBER, footprint, host_advice, host_bytes, host_name, shown

CPU = "cpu"
USUAL = 2
"""Jobs on a processor took 1.1 to 4 times the memory that is counted for them."""


@dataclass(frozen=True)
class Device:
    """What a worker computes on."""

    name: str
    """`cpu`, or the name of a GPU."""
    memory: int
    """In bytes."""


@dataclass(frozen=True)
class Part:
    """Something that a job needs memory for."""

    bytes: int
    what: str
    pointer: str
    """The field of the spec that says most about its size."""
    way_out: str

    def __str__(self) -> str:
        return f"{shown(self.bytes)} for {self.what}"


@dataclass(frozen=True)
class Need:
    """What a job needs at one time: the largest part first."""

    parts: Sequence[Part]

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    @property
    def largest(self) -> Part:
        return self.parts[0]

    def __str__(self) -> str:
        return f"{shown(self.bytes)} of memory or more ({', '.join(map(str, self.parts))})"


def need(spec: Spec, summary: DatasetSummary, device: str, *, in_file: bool | None = None) -> Need:
    """What a job surely needs of this device's memory, when it needs the most. A GPU computes as few samples at a time
    as it has to. `in_file`: the steps stay in their file; None: as the trainer will find."""
    found = footprint(spec, summary, in_file=_stays(spec, summary) if in_file is None else in_file, surely=True)
    network = Part(
        found.network,
        f"the network of {found.parameters:,} parameters with gradients and optimizer",
        "/architecture/hidden_size",
        "lower architecture.hidden_size or num_layers",
    )
    pointer, shorter = _shorter(spec)
    if device != CPU:
        return _need(network, Part(found.sample, "the activations of a sample", pointer, shorter))
    batch = Part(
        found.batch,
        f"the activations of a batch of {found.samples:,}",
        "/training/batch_size",
        f"lower training.batch_size (raise training.accumulation_steps to keep the size of an update), or {shorter}",
    )
    field = "/data/dataset" if spec.data.synthetic is None else "/data/synthetic"
    data, prepared = (Part(size, "the data", field, "use less data") for size in (found.data, found.prepared))
    return max(_need(data), _need(network, prepared, batch), key=lambda one: one.bytes)


def _need(*parts: Part) -> Need:
    return Need(sorted((part for part in parts if part.bytes), key=lambda part: -part.bytes) or parts[:1])


def _stays(spec: Spec, summary: DatasetSummary) -> bool:
    """Whether the steps may stay in their file: the numbers there may take twice as much as those in memory."""
    is_read_whole = tasks.forecast(spec) is not None or spec.training.bptt_steps is not None
    return spec.data.synthetic is None and not is_read_whole and 2 * summary.bytes >= IN_FILE_FROM


def _shorter(spec: Spec) -> tuple[str, str]:
    """How the network would read fewer steps at a time: the field, and what to do."""
    if spec.training.bptt_steps is not None:
        return "/training/bptt_steps", "lower training.bptt_steps"
    if isinstance(spec.task, Forecast):
        return "/task/lookback", "lower task.lookback"
    if spec.architecture.pooling == "none":
        return "/training/bptt_steps", "train in windows with training.bptt_steps"
    return "/data/max_length", "read fewer steps with data.max_length, data.stride or data.patch"


def lacks(spec: Spec, summary: DatasetSummary, devices: Sequence[Device]) -> tuple[Need, Device] | None:
    """What the job needs of the device that comes closest, if none of them has room for it."""
    closest: tuple[Need, Device] | None = None
    for device in devices:
        wanted = need(spec, summary, device.name)
        if wanted.bytes <= device.memory:
            return None
        if closest is None or wanted.bytes - device.memory < closest[0].bytes - closest[1].memory:
            closest = wanted, device
    return closest


def is_near(spec: Spec, summary: DatasetSummary, devices: Sequence[Device]) -> tuple[int, Device] | None:
    """What the job needs at least with whole batches and every word, and the largest device, if a job usually takes
    more than any of them has."""
    counted = footprint(spec, summary, in_file=_stays(spec, summary))
    roomiest: tuple[int, Device] | None = None
    for device in devices:
        wanted = counted.network + counted.batch + (counted.data if device.name == CPU else 0)
        if USUAL * wanted <= device.memory:
            return None
        if roomiest is None or device.memory > roomiest[1].memory:
            roomiest = wanted, device
    return roomiest


def check_fits(
    spec: Spec, summary: DatasetSummary, device: tuple[str, int] | None = None, *, in_file: bool | None = None
) -> None:
    """`device` is the name of a GPU and its memory in bytes; without one the machine's processor trains.
    Workers that share the processor also share its memory.

    Raises TooLargeToTrain, with the numbers, where the job needs more than there is.
    """
    host = host_bytes()
    if device is None:
        _check(host_name(), host, need(spec, summary, CPU, in_file=in_file))
        return
    name, there = device
    _check(name, there, need(spec, summary, name, in_file=in_file))
    stays = _stays(spec, summary) if in_file is None else in_file
    found = footprint(spec, summary, in_file=stays, surely=True)
    hidden = "lower architecture.hidden_size or num_layers"
    weights = Part(found.parameters * NUMBER, "the network's weights", "/architecture/hidden_size", hidden)
    _check(host_name(), host, _need(Part(found.data, "the data", "/data/dataset", "use less data"), weights))


def _check(where: str, there: int | None, wanted: Need) -> None:
    if there is not None and wanted.bytes > there:
        raise TooLargeToTrain(
            f"The job needs {wanted}, and {where} has {shown(there)}: {wanted.largest.way_out}, or use a queue whose "
            f"workers have more memory{host_advice()}."
        )

"""How training steps are executed. Everything that makes them fast beyond plain PyTorch is in this file.

eager        every operation is launched from Python as it is written: the plain reference
cuda_graphs  a step's operations are recorded once and launched together from then on; steps that do not depend on each
             other share a recording and run side by side
compile      dynamics, and the transformer's updates, as fused kernels of torch.compile; on a GPU recorded as well
auto         on a GPU each step is timed in its first calls and keeps the faster of cuda_graphs and compile; on a CPU
             eager, where large matrix products take the time and torch.compile gained nothing

A step is a function of tensors with fixed shapes that returns tensors, changes other tensors in place, and does
nothing else: no numbers from the device, no decisions of the host. Random numbers are the same in every mode except
within fused kernels: a recorded graph draws from PyTorch's generator where the eager step would.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

Step = Callable[..., Any]

MOST_SIDE_BY_SIDE = 3

logger = logging.getLogger(__name__)


class Accelerator:
    """Turns steps into faster ones with the same results.

    Args:
        mode: "auto", "eager", "cuda_graphs" or "compile".
        device: where the steps run.
        fused: the modules that torch.compile may fuse.

    Raises:
        ValueError: if the mode needs a GPU and `device` is none.
    """

    def __init__(self, mode: str, device: torch.device, fused: Sequence[nn.Module]) -> None:
        on_gpu = device.type == "cuda"
        if mode == "cuda_graphs" and not on_gpu:
            raise ValueError(
                f"acceleration='cuda_graphs' needs a CUDA GPU, but the learner runs on {device.type!r}: "
                "use acceleration='auto', or give the learner a GPU (num_gpus_per_learner=1)."
            )
        self.mode = mode if on_gpu or mode != "auto" else "eager"
        self._on_gpu = on_gpu
        self._recorded: list[RecordedStep] = []
        self._streams = [torch.cuda.Stream(device) for _ in range(MOST_SIDE_BY_SIDE)] if on_gpu else []
        if self.mode in ("compile", "auto"):
            for module in fused:
                if module._compiled_call_impl is None:
                    module.compile(dynamic=False)  # in place and lazily: nothing is compiled before the first call

    def accelerate(self, name: str, step: Step, recordable: bool = True) -> Step:
        """The step as this mode executes it.

        Args:
            name: for messages.
            step: see the head of this file.
            recordable: False for a step that talks to other processes or reads host memory.
        """
        if not self.records or not recordable:
            return unfused(step) if self.mode == "auto" else step
        if self.mode == "auto":
            return FasterStep(name, self._record(unfused(step)), self._record(step))
        return self._record(step)

    @property
    def records(self) -> bool:
        """Whether steps are recorded."""
        return self._on_gpu and self.mode != "eager"

    def side_by_side(self, steps: Sequence[Step]) -> None:
        """Runs steps that share no tensor which any of them writes: within a recorded step at the same time."""
        if not self.records:
            for step in steps:
                step()
            return
        before, streams = torch.cuda.current_stream(), self._streams[: len(steps)]
        for step, stream in zip(steps, streams, strict=True):
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                step()
        for stream in streams:
            before.wait_stream(stream)

    def forget(self) -> None:
        """Has every recorded step recorded anew, after tensors that it used were replaced by others."""
        for step in self._recorded:
            step.forget()

    def _record(self, step: Step) -> RecordedStep:
        self._recorded.append(RecordedStep(step))
        return self._recorded[-1]


class RecordedStep:
    """A step that becomes a CUDA graph in its third call and is replayed from then on.

    The calls before are real steps too: they let libraries and optimisers allocate what they keep. Inputs are copied
    into the tensors that the graph reads, unless they are those tensors; inputs of other shapes make the step start
    over. What it returns are always the same tensors, overwritten by the next call.

    Args:
        step: see the head of this file.
    """

    NUM_WARMUP_CALLS = 2

    def __init__(self, step: Step) -> None:
        self._step = step
        self.forget()

    def forget(self) -> None:
        """Drops the graph; the next calls record a new one."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[torch.Tensor, ...] = ()
        self._outputs: Any = None
        self._num_calls = 0

    @property
    def is_recorded(self) -> bool:
        """Whether calls are replays by now."""
        return self._graph is not None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        if self.is_recorded and [x.shape for x in inputs] != [x.shape for x in self._inputs]:
            self.forget()
        self._num_calls += 1
        if self._num_calls <= self.NUM_WARMUP_CALLS:
            return _on_side_stream(self._step, inputs)
        graph = self._graph or self._record(inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            if kept is not given:
                kept.copy_(given)
        graph.replay()
        return self._outputs

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> torch.cuda.CUDAGraph:
        """Recording executes nothing, so that the replay which follows is the call's one execution."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outputs = self._step(*inputs)
        self._graph, self._inputs = graph, inputs
        return graph


class FasterStep:
    """Tries two recorded variants of a step in turn, on real calls, and keeps the faster.

    Args:
        name: for messages.
        plain: the variant without fused kernels.
        fused: the one with them; if it cannot be built (no compiler, say), the plain one is kept, with a warning. In
            that call of a step made of several, those before the one that failed are done twice.
    """

    NUM_TIMED_CALLS = 10

    def __init__(self, name: str, plain: RecordedStep, fused: RecordedStep) -> None:
        self._name = name
        self._variants = {"cuda_graphs": plain, "compile": fused}
        self._seconds: dict[str, list[float]] = {variant: [] for variant in self._variants}
        self.chosen: str | None = None

    def __call__(self, *inputs: torch.Tensor) -> Any:
        if self.chosen is not None:
            return self._variants[self.chosen](*inputs)
        variant = next(v for v in self._variants if len(self._seconds[v]) < self.NUM_TIMED_CALLS)
        try:
            return self._try(variant, inputs)
        except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore[reportAttributeAccessIssue]: lazy
            logger.warning(f"torch.compile failed for {self._name}, which goes on without it: {error}")
            self._choose("cuda_graphs")
            return self(*inputs)

    def _try(self, variant: str, inputs: tuple[torch.Tensor, ...]) -> Any:
        step = self._variants[variant]
        was_recorded = step.is_recorded
        torch.cuda.synchronize()
        start = time.perf_counter()
        outputs = step(*inputs)
        torch.cuda.synchronize()
        if was_recorded:
            self._seconds[variant].append(time.perf_counter() - start)
        if all(len(seconds) == self.NUM_TIMED_CALLS for seconds in self._seconds.values()):
            self._choose(min(self._seconds, key=lambda v: min(self._seconds[v])))
        return outputs

    def _choose(self, variant: str) -> None:
        self.chosen = variant
        for other, step in self._variants.items():
            if other != variant:
                step.forget()  # frees its memory
        times = {v: f"{1e3 * min(s):.2f} ms" for v, s in self._seconds.items() if s}
        logger.info(f"{self._name}: acceleration={variant!r} {times}")


def unfused(step: Step) -> Step:
    """The step with modules that were given to torch.compile run as they are written."""

    def run(*inputs: torch.Tensor) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return step(*inputs)

    return run


@contextlib.contextmanager
def matrix_product_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Lets float32 matrix products inside use TF32 on a GPU, unless precision is "float32"."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device itself multiplies matrices in bfloat16; others take up to 20 times as long as in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _on_side_stream(step: Step, inputs: tuple[torch.Tensor, ...]) -> Any:
    """As PyTorch wants calls before a recording: on another stream than the default one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    return outputs

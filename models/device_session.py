"""A session on a device: it takes values where they are, and leaves its outputs where they belong.

Knows ONNX Runtime and its providers, and nothing of stages.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from models.errors import SettingsError
from models.runtime import open_session

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["cuda", "tensorrt", "cpu"]
"""What computes; `cpu` is the host behind the same calls, so that they can be tested anywhere."""

PROVIDERS: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

logger = logging.getLogger("bentoml.offramp")


class Device:
    """Where sessions run, and their values live.

    Parameters
    ----------
    provider : what computes
    number : of the CUDA device

    Raises
    ------
    SettingsError
        When ONNX Runtime cannot use the device: serving on the CPU instead would be silent.
    """

    def __init__(self, provider: Provider, number: int = 0) -> None:
        self.provider = provider
        self.name, self.number = ("cpu", 0) if provider == "cpu" else ("cuda", number)
        if self.name == "cuda":
            _share_arena(number)
        if provider == "tensorrt":
            logger.warning(
                "event=arithmetic_differs provider=tensorrt "
                "hint='a certificate holds for the arithmetic that it was measured with: certify "
                "thresholds on answers that TensorRT gave'"
            )

    def open(self, model: bytes, on_host: Collection[str] = ()) -> DeviceSession:
        """Open a session on this device.

        Parameters
        ----------
        model : a serialized graph
        on_host : names of the outputs that come to the host; the others stay on the device

        Raises
        ------
        SettingsError
            When ONNX Runtime gives another provider than the one asked for.
        """
        if self.provider == "cpu":
            return DeviceSession(open_session(model), self, on_host)
        session = _open_cuda_session(model, self.provider, self.number)
        given = session.get_providers()
        if PROVIDERS[self.provider] not in given:
            raise _not_there(self.provider, self.number, f"sessions run on {', '.join(given)}")
        return DeviceSession(session, self, on_host)

    def put(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """Copy an array to the device."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.name, self.number)

    def blank(self, element: int) -> onnxruntime.OrtValue:
        """A tensor (1,) of an ONNX element type, on the device; what it holds is not defined."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_shape_and_type([1], element, self.name, self.number)


def host_value(array: np.ndarray) -> onnxruntime.OrtValue:
    """An array as a value on the host, without a copy; a run takes it to its device."""
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


class DeviceSession:
    """An ONNX Runtime session that is run on values of the host or of its device.

    Every run binds its own values, so that threads may share a session. A binding that is kept
    would let the next run write into the memory of the last outputs, which carries still hold; and
    a new IOBinding for every run takes twice the time of this (13 against 7 microseconds).
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: Device, on_host: Collection[str]
    ) -> None:
        from onnxruntime import OrtDevice, OrtValue, RunOptions
        from onnxruntime.capi.onnxruntime_pybind11_state import OrtValueVector

        self.inputs = [value.name for value in session.get_inputs()]
        self.outputs = [value.name for value in session.get_outputs()]
        self._session = session
        host = OrtDevice.make("cpu", 0)._get_c_device()
        there = OrtDevice.make(device.name, device.number)._get_c_device()
        self._places = [host if name in on_host else there for name in self.outputs]
        self._options = RunOptions()
        self._value: Any = OrtValue
        self._vector: Any = OrtValueVector

    def run(self, values: Sequence[onnxruntime.OrtValue]) -> list[onnxruntime.OrtValue]:
        """Compute the outputs, in their order, of values in the order of the inputs.

        When it returns the device has finished: any other session may read the outputs.
        """
        given, made = self._vector(), self._vector()
        given.reserve(len(values))
        for value in values:
            given.push_back(value._get_c_value())
        self._session.run_with_ortvaluevector(
            self._options, self.inputs, given, self.outputs, made, self._places
        )
        return [self._value(made[place]) for place in range(len(self.outputs))]


def _open_cuda_session(
    model: bytes, provider: Provider, number: int
) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.use_env_allocators", "1")
    cuda = {
        "device_id": number,
        # TF32 keeps ten bits: answers would differ from those that were certified, and by batch
        "use_tf32": 0,
        # an exhaustive search would start again for every new number of rows
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    providers = [(PROVIDERS["cuda"], cuda)]
    if provider == "tensorrt":
        providers.insert(0, (PROVIDERS["tensorrt"], {"device_id": number}))
    try:
        # without `enable_fallback` a failure would print, and go on with the CPU
        return onnxruntime.InferenceSession(model, options, providers, enable_fallback=0)
    except Exception as error:  # bindings raise RuntimeError and classes of their own
        raise _not_there(provider, number, _first_line(error)) from error


@cache
def _share_arena(number: int) -> None:
    """One arena on a device for all sessions of the process, where ONNX Runtime keeps it.

    With an arena each, sessions would hold memory that the others need.
    """
    import onnxruntime as ort

    available = ort.get_available_providers()
    if PROVIDERS["cuda"] not in available:
        raise _not_there("cuda", number, f"it offers {', '.join(available)} only")
    missing = _load_libraries()
    arena = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    memory = ort.OrtMemoryInfo("Cuda", arena, number, ort.OrtMemType.DEFAULT)
    try:
        # the configuration is read without a look whether there is one
        ort.create_and_register_allocator_v2(PROVIDERS["cuda"], memory, {}, ort.OrtArenaCfg({}))
    except Exception as error:
        raise _not_there("cuda", number, missing or _first_line(error)) from error


def _load_libraries() -> str:
    """Load CUDA and cuDNN from wheels, where they were installed so; says what is missing."""
    import onnxruntime

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    failures = [line.partition("Failed to load ")[2] for line in printed.getvalue().splitlines()]
    missing = [failure.partition(":")[0] for failure in failures if failure]
    return f"missing {', '.join(missing)}" if missing else ""


def _not_there(provider: Provider, number: int, found: str) -> SettingsError:
    import onnxruntime

    built_for = getattr(onnxruntime, "cuda_version", None)
    need = (
        f"it was built for CUDA {built_for} and needs a driver for that (nvidia-smi shows it), and "
        "CUDA and cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')"
        if built_for
        else "this build has no CUDA, so install onnxruntime-gpu in place of onnxruntime"
    )
    if provider == "tensorrt":
        need += ", and TensorRT's libraries on the library path"
    return SettingsError(
        f"ONNX Runtime {onnxruntime.__version__} cannot use {provider} on device {number}: "
        f"{found}. Expected {PROVIDERS[provider]}: {need}. To serve without it, set the device to "
        "cpu"
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)

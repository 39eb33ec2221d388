"""The other runtimes: ONNX Runtime, OpenVINO and ncnn, each held to float32 and to the same number of threads."""

import importlib
from types import ModuleType

import torch

from lightops.bench.contestants import Call, Contestant, Task, Unavailable
from lightops.bench.export import export_ncnn, export_onnx


def _require(module: str, task: Task) -> ModuleType:
    if task.device.type != "cpu":
        raise Unavailable(f"{module} is run on the CPU only")
    if task.dtype is not torch.float32:
        raise Unavailable(f"{module} is run in float32 only")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unavailable(f"{module} is not installed ({error})") from error


def build_onnxruntime(task: Task) -> Call:
    """ONNX Runtime's CPU provider, all graph optimisations, batch fixed.

    Its threads spin while they wait for work, which is its fast default; they are told to stop as soon as a run ends,
    or they would take the cores from whoever is timed next.
    """
    ort = _require("onnxruntime", task)
    options = ort.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_free_dimension_override_by_name("batch", task.x.shape[0])
    session = ort.InferenceSession(export_onnx(task), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: task.x.numpy()}
    return lambda: session.run(None, feed)[0]


def build_openvino(task: Task) -> Call:
    """OpenVINO's CPU plugin: latency hint, one stream, float32, static shape."""
    openvino = _require("openvino", task)
    core = openvino.Core()
    model = core.read_model(export_onnx(task))
    model.reshape(list(task.x.shape))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": task.threads,
            "NUM_STREAMS": 1,
            # Pinning would leave the calling thread, and every thread torch makes after it, on one core.
            "ENABLE_CPU_PINNING": False,
        },
    )
    request = compiled.create_infer_request()
    x = openvino.Tensor(task.x.numpy(), shared_memory=True)

    def call() -> object:
        request.infer([x])
        return request.get_output_tensor(0).data

    return call


def build_ncnn(task: Task) -> Call:
    """ncnn with float32 weights. It has no batch dimension: a batch is run picture by picture."""
    ncnn = _require("ncnn", task)
    import numpy

    param, weights, inputs, outputs = export_ncnn(task)
    net = ncnn.Net()
    net.opt.num_threads = task.threads
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    net.load_param(param)
    net.load_model(weights)
    pictures = [numpy.ascontiguousarray(picture) for picture in task.x.numpy()]

    def run(picture: object) -> object:
        with net.create_extractor() as extractor:
            extractor.input(inputs, ncnn.Mat(picture))
            return numpy.array(extractor.extract(outputs)[1])

    return lambda: numpy.stack([run(picture) for picture in pictures])


ENGINES = (
    Contestant("onnxruntime", "other", build_onnxruntime),
    Contestant("openvino", "other", build_openvino),
    Contestant("ncnn", "other", build_ncnn),
)

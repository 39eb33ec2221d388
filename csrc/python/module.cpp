// lightops._C: what Python asks the native layer about that is not a tensor. No torch here, so it loads (and can say
// what is wrong) where _ops.so cannot.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "guard.h"
#include "lightops/dispatch.h"
#include "lightops/pack.h"

namespace py = pybind11;

namespace {

std::map<std::string, std::string> build_info() {
  return {
#include "build_info.inc"
      {"compiler", __VERSION__},
  };
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define LIGHTOPS_FEATURE(name) \
  if (__builtin_cpu_supports(name)) found.push_back(name)
  LIGHTOPS_FEATURE("sse4.2");
  LIGHTOPS_FEATURE("avx");
  LIGHTOPS_FEATURE("avx2");
  LIGHTOPS_FEATURE("fma");
  LIGHTOPS_FEATURE("avx512f");
  LIGHTOPS_FEATURE("avx512bw");
  LIGHTOPS_FEATURE("avx512cd");
  LIGHTOPS_FEATURE("avx512dq");
  LIGHTOPS_FEATURE("avx512vl");
  LIGHTOPS_FEATURE("avx512vnni");
  LIGHTOPS_FEATURE("avx512bf16");
#undef LIGHTOPS_FEATURE
#elif defined(__aarch64__)
  found.push_back("neon");
#endif
  return found;
}

std::vector<std::string> isas_built() {
  std::vector<std::string> names;
  for (int i = 0; i < lightops::isa_count_built(); ++i) names.push_back(lightops::isa_built(i));
  return names;
}

std::int64_t packed_numel(std::int64_t out_channels, std::int64_t in_channels, std::int64_t kh, std::int64_t kw,
                          int algo, bool pairs) {
  if (out_channels < 1 || in_channels < 1 || kh < 1 || kw < 1)
    throw std::invalid_argument("packed_numel: out_channels, in_channels, kh and kw must be at least 1, got " +
                                std::to_string(out_channels) + ", " + std::to_string(in_channels) + ", " +
                                std::to_string(kh) + ", " + std::to_string(kw));
  if (algo != 0 && algo != 2 && algo != 4)
    throw std::invalid_argument("packed_numel: algo must be 0 (direct), 2 or 4 (Winograd tile), got " +
                                std::to_string(algo));
  if (algo != 0 && (kh != 3 || kw != 3))
    throw std::invalid_argument("packed_numel: Winograd (algo " + std::to_string(algo) + ") is for 3x3, got " +
                                std::to_string(kh) + "x" + std::to_string(kw));
  return lightops::packed_numel(out_channels, in_channels, kh, kw, algo, pairs);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts, CPU features and weight-layout sizes of lightops' native layer.";
  m.def("build_info", &build_info, "What this build was made with, as a dict of strings.");
  m.def("cpu_features", &cpu_features, "Instruction-set extensions of this CPU that lightops looks at.");
  m.def("isa", [] { return std::string(lightops::isa_name()); }, "The instruction set whose kernels run.");
  m.def("isa_reason", [] { return std::string(lightops::isa_reason()); }, "Why that one was picked.");
  m.def("isa_reads_pairs", &lightops::isa_reads_pairs, "Whether its products take weights in pairs of bfloat16.");
  m.def("isas_built", &isas_built, "Instruction sets in this build, best first.");
  m.def(
      "cpu_supports", [](const std::string& isa) { return lightops::cpu_supports(isa.c_str()); }, py::arg("isa"),
      "Whether this CPU can run the kernels of the instruction set.");
  m.def(
      "guard_holds",
      [](const py::list& links, const py::list& fields, const py::list& attributes, const py::list& tensors,
         const py::list& absent, const py::list& samples) {
        return guard_holds(links.ptr(), fields.ptr(), attributes.ptr(), tensors.ptr(), absent.ptr(), samples.ptr());
      },
      py::arg("links"), py::arg("fields"), py::arg("attributes"), py::arg("tensors"), py::arg("absent"),
      py::arg("samples"), "Whether all entries of a lightops.modules._guard.Guard hold.");
  m.def("packed_numel", &packed_numel, py::arg("out_channels"), py::arg("in_channels"), py::arg("kh"), py::arg("kw"),
        py::arg("algo"), py::arg("pairs") = false,
        "Elements of a packed convolution weight (the size of pack_conv2d's result).");
}

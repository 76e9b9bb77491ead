// qgemm._core: CPU and dispatch, errors; the operations are bound in the other files of this folder.
#include <omp.h>

#include "bind.h"
#include "cpu/dispatch.h"
#include "cpu/features.h"
#include "cpu/threads.h"

namespace qgemm {
namespace {

const char* class_of(Code code) {
  switch (code) {
    case Code::shape:
      return "ShapeError";
    case Code::dtype:
      return "DTypeError";
    case Code::layout:
      return "LayoutError";
    case Code::quantization:
      return "QuantizationError";
    case Code::overflow:
      return "AccumulatorOverflowError";
    case Code::packed:
      return "PackedWeightError";
    case Code::isa:
      return "IsaError";
    case Code::config:
      return "ConfigError";
  }
  return "QgemmError";
}

}  // namespace

void raise(const Error& e) {
  const py::object type = py::module_::import("qgemm.errors").attr(class_of(e.code()));
  PyErr_SetString(type.ptr(), e.what());
}

PyObject* raise_current() {
  try {
    throw;
  } catch (const Error& e) {
    raise(e);
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const py::builtin_exception& e) {
    e.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
  return nullptr;
}

namespace {

py::dict features() {
  const CpuFeatures& f = cpu_features();
  py::dict d;
#define QGEMM_FEATURE(name) d[#name] = f.name
  QGEMM_FEATURE(avx2);
  QGEMM_FEATURE(fma);
  QGEMM_FEATURE(avx512f);
  QGEMM_FEATURE(avx512bw);
  QGEMM_FEATURE(avx512dq);
  QGEMM_FEATURE(avx512vl);
  QGEMM_FEATURE(avx512vnni);
  QGEMM_FEATURE(avx512vbmi);
  QGEMM_FEATURE(avx512bf16);
  QGEMM_FEATURE(avxvnni);
  QGEMM_FEATURE(amx_tile);
  QGEMM_FEATURE(amx_int8);
  QGEMM_FEATURE(dotprod);
  QGEMM_FEATURE(i8mm);
#undef QGEMM_FEATURE
  return d;
}

py::list isa_list(bool only_available) {
  py::list names;
  for (int i = kIsaCount - 1; i >= 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (only_available ? isa_available(isa) : isa_in_build(isa)) names.append(isa_name(isa));
  }
  return names;
}

bool is_selected(const KernelRow& r) {
  const KernelTable& t = table();
  for (const auto* kernels : {t.gemm, t.low_gemm})
    for (int w = 0; w < 4; ++w)
      if (reinterpret_cast<void (*)()>(kernels[w].fn) == r.fn) return true;
  void (*const others[])() = {
#define QGEMM_FN(op) reinterpret_cast<void (*)()>(t.op)
      QGEMM_FN(product),       QGEMM_FN(group_finish), QGEMM_FN(unpack4),      QGEMM_FN(depthwise), QGEMM_FN(quantize),
      QGEMM_FN(dequantize),    QGEMM_FN(minmax),       QGEMM_FN(add),          QGEMM_FN(mul),       QGEMM_FN(lut),
      QGEMM_FN(gather),        QGEMM_FN(interleave3),  QGEMM_FN(permute),      QGEMM_FN(lerp),      QGEMM_FN(mix),
      QGEMM_FN(mix2),          QGEMM_FN(max_pool),     QGEMM_FN(average_pool), QGEMM_FN(sum_pool),  QGEMM_FN(requantize),
      QGEMM_FN(pack_b),        QGEMM_FN(pack_w),       QGEMM_FN(row_sum),      QGEMM_FN(combine16), QGEMM_FN(softmax),
      QGEMM_FN(norm),          QGEMM_FN(unary),        QGEMM_FN(arith),        QGEMM_FN(select),    QGEMM_FN(gemm4),
      QGEMM_FN(quantize_rows), QGEMM_FN(sum),          QGEMM_FN(fdepthwise),   QGEMM_FN(fmax_pool), QGEMM_FN(mean_pool),
      QGEMM_FN(flip),          QGEMM_FN(tails),        QGEMM_FN(lines)
#undef QGEMM_FN
  };
  for (auto fn : others)
    if (fn == r.fn) return true;
  return false;
}

py::list kernel_list() {
  py::list rows;
  for (const auto& r : kernel_rows()) {
    py::dict d;
    d["op"] = r.op;
    d["types"] = r.types;
    d["mr"] = r.mr;
    d["nr"] = r.nr;
    d["isa"] = isa_name(r.isa);
    d["name"] = r.name;
    d["available"] = isa_available(r.isa);
    d["selected"] = is_selected(r);
    rows.append(d);
  }
  return rows;
}

}  // namespace
}  // namespace qgemm

PYBIND11_MODULE(_core, m) {
  using namespace qgemm;
  using namespace py::literals;
  m.attr("__version__") = QGEMM_VERSION;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const Error& e) {
      raise(e);
    }
  });
  m.def("cpu_features", &features);
  m.def("isas", [] { return isa_list(false); });
  m.def("available_isas", [] { return isa_list(true); });
  m.def("active_isa", [] { return isa_name(active_isa()); });
  m.def(
      "force_isa", [](std::optional<std::string> name) { force_isa(name ? name->c_str() : nullptr); }, "name"_a);
  m.def("kernels", &kernel_list);
  m.def("explain", &explain);
  m.def("max_threads", [] { return may_share() ? omp_get_max_threads() : 1; });
  bind_gemm(m);
  bind_ops(m);
  bind_product(m);
  bind_images(m);
  bind_float(m);
  bind_rows(m);
  bind_taps(m);
  bind_expression(m);
  bind_tensor(m);
  bind_program(m);
}

#include "cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>

#include "cpu/error.h"
#include "cpu/features.h"

namespace qgemm {

#define QGEMM_KERNEL(op, types, mr, nr, isa)         \
  namespace isa {                                    \
  void op##_##types##_##mr##x##nr(const op##_args&); \
  }
#include "kernels/kernels.def"
#undef QGEMM_KERNEL

const std::vector<KernelRow>& kernel_rows() {
  static const std::vector<KernelRow> rows = {
#define QGEMM_KERNEL(op, types, mr, nr, isa) \
  {#op,                                      \
   #types,                                   \
   mr,                                       \
   nr,                                       \
   Isa::isa,                                 \
   #op "_" #types "_" #mr "x" #nr "__" #isa, \
   reinterpret_cast<void (*)()>(static_cast<KernelFn<op##_args>>(&isa::op##_##types##_##mr##x##nr))},
#include "kernels/kernels.def"
#undef QGEMM_KERNEL
  };
  return rows;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512vbmi:
      return "avx512vbmi";
    case Isa::avx512vnni:
      return "avx512vnni";
    case Isa::avx2:
      return "avx2";
    case Isa::ref:
      return "ref";
  }
  return "?";
}

bool isa_in_build(Isa isa) {
  for (const auto& r : kernel_rows())
    if (r.isa == isa) return true;
  return false;
}

namespace {

// Empty when the CPU has what the path needs, else the names of what it lacks.
std::string missing(Isa isa) {
  const CpuFeatures& f = cpu_features();
  std::string m;
  auto need = [&](bool have, const char* name) {
    if (!have) m += (m.empty() ? "" : ", ") + std::string(name);
  };
  if (isa >= Isa::avx2) {
    need(f.avx2, "avx2");
    need(f.fma, "fma");
  }
  if (isa >= Isa::avx512vnni) {
    need(f.avx512f, "avx512f");
    need(f.avx512bw, "avx512bw");
    need(f.avx512dq, "avx512dq");
    need(f.avx512vl, "avx512vl");
    need(f.avx512vnni, "avx512_vnni");
  }
  if (isa == Isa::avx512vbmi) need(f.avx512vbmi, "avx512_vbmi");
  return m;
}

// The row of an operation whose nr is the width of the panel, else the largest nr that divides it; of several with one nr the
// highest tile, or the lowest.
const KernelRow* select(const char* op, int width, Isa from, bool low = false) {
  for (int i = static_cast<int>(from); i >= 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (!isa_available(isa)) continue;
    const KernelRow* best = nullptr;
    for (const auto& r : kernel_rows()) {
      if (r.isa != isa || std::strcmp(r.op, op) != 0) continue;
      if (width > 0 && width % r.nr != 0) continue;
      if (!best || r.nr > best->nr || (r.nr == best->nr && (low ? r.mr < best->mr : r.mr > best->mr))) best = &r;
    }
    if (best) return best;
  }
  return nullptr;
}

template <class Args>
KernelFn<Args> pick(const char* op, Isa from) {
  const KernelRow* r = select(op, 0, from);
  return r ? reinterpret_cast<KernelFn<Args>>(r->fn) : nullptr;
}

KernelTable build(Isa isa) {
  KernelTable t{};
  t.isa = isa;
  for (int w = 0; w < 4; ++w) {
    for (const bool low : {false, true}) {
      const KernelRow* r = select("gemm", 16 * (w + 1), isa, low);
      (low ? t.low_gemm : t.gemm)[w] = {reinterpret_cast<KernelFn<gemm_args>>(r->fn), r->mr, r->name};
    }
  }
#define QGEMM_PICK(op) t.op = pick<op##_args>(#op, isa)
  QGEMM_PICK(gemm4);
  QGEMM_PICK(product);
  QGEMM_PICK(group_finish);
  QGEMM_PICK(unpack4);
  QGEMM_PICK(depthwise);
  QGEMM_PICK(quantize);
  QGEMM_PICK(dequantize);
  QGEMM_PICK(minmax);
  QGEMM_PICK(quantize_rows);
  QGEMM_PICK(add);
  QGEMM_PICK(sum);
  QGEMM_PICK(mul);
  QGEMM_PICK(lut);
  QGEMM_PICK(gather);
  QGEMM_PICK(tails);
  QGEMM_PICK(lines);
  QGEMM_PICK(interleave3);
  QGEMM_PICK(permute);
  QGEMM_PICK(lerp);
  QGEMM_PICK(mix);
  QGEMM_PICK(mix2);
  QGEMM_PICK(max_pool);
  QGEMM_PICK(average_pool);
  QGEMM_PICK(sum_pool);
  QGEMM_PICK(fdepthwise);
  QGEMM_PICK(fmax_pool);
  QGEMM_PICK(mean_pool);
  QGEMM_PICK(requantize);
  QGEMM_PICK(pack_b);
  QGEMM_PICK(pack_w);
  QGEMM_PICK(flip);
  QGEMM_PICK(row_sum);
  QGEMM_PICK(combine16);
  QGEMM_PICK(softmax);
  QGEMM_PICK(norm);
  QGEMM_PICK(unary);
  QGEMM_PICK(arith);
  QGEMM_PICK(select);
#undef QGEMM_PICK
  t.product_rows = select("product", 0, isa)->mr;
  return t;
}

Isa parse(const char* name, const char* source) {
  std::string have;
  for (int i = kIsaCount - 1; i >= 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (!isa_in_build(isa)) continue;
    have += (have.empty() ? "" : ", ") + std::string(isa_name(isa));
    if (std::strcmp(name, isa_name(isa)) != 0) continue;
    if (!isa_available(isa))
      throw Error(Code::isa,
                  std::string(source) + "=" + name + ": this CPU lacks " + missing(isa) + "; choose a path it can run");
    return isa;
  }
  throw Error(Code::isa,
              std::string(source) + "='" + name + "' names no instruction set path of this build; choose one of: " + have);
}

Isa best_isa() {
  for (int i = kIsaCount - 1; i > 0; --i)
    if (isa_available(static_cast<Isa>(i))) return static_cast<Isa>(i);
  return Isa::ref;
}

Isa default_isa() {
  const char* env = std::getenv("QGEMM_ISA");
  return env && *env ? parse(env, "QGEMM_ISA") : best_isa();
}

std::atomic<const KernelTable*> g_active{nullptr};
std::mutex g_mutex;

}  // namespace

bool isa_available(Isa isa) { return isa_in_build(isa) && missing(isa).empty(); }

const KernelTable& table_of(Isa isa) {
  static const KernelTable tables[kIsaCount] = {build(Isa::ref), build(Isa::avx2), build(Isa::avx512vnni),
                                                build(Isa::avx512vbmi)};
  return tables[static_cast<int>(isa)];
}

const KernelTable& table() {
  const KernelTable* t = g_active.load(std::memory_order_acquire);
  if (t) return *t;
  std::lock_guard<std::mutex> lock(g_mutex);
  t = g_active.load(std::memory_order_relaxed);
  if (!t) {
    t = &table_of(default_isa());
    g_active.store(t, std::memory_order_release);
  }
  return *t;
}

Isa active_isa() { return table().isa; }

void force_isa(const char* name) {
  const Isa isa = name ? parse(name, "isa") : default_isa();
  std::lock_guard<std::mutex> lock(g_mutex);
  g_active.store(&table_of(isa), std::memory_order_release);
}

std::string explain() {
  std::ostringstream s;
  const Isa active = active_isa();
  const char* env = std::getenv("QGEMM_ISA");
  s << "instruction set paths, best first:\n";
  for (int i = kIsaCount - 1; i >= 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    s << "  " << isa_name(isa) << ": ";
    if (!isa_in_build(isa)) {
      s << "not in this build (another architecture)";
    } else if (!missing(isa).empty()) {
      s << "this CPU lacks " << missing(isa);
    } else {
      s << "available";
    }
    if (isa == active) {
      s << "  <- active";
      if (isa == best_isa())
        s << ", the best available";
      else if (env && *env)
        s << ", asked for by QGEMM_ISA";
      else
        s << ", forced";
    }
    s << "\n";
  }
  s << "operations:\n";
  std::vector<std::string> seen;
  for (const auto& row : kernel_rows()) {
    const std::string op = row.op;
    bool done = false;
    for (const auto& o : seen) done = done || o == op;
    if (done) continue;
    seen.push_back(op);
    const bool panels = op == "gemm";
    for (int w = panels ? 64 : 0; w >= (panels ? 16 : 0); w -= 16) {
      const KernelRow *r = select(op.c_str(), w, active), *low = select(op.c_str(), w, active, true);
      s << "  " << op;
      if (panels) s << " (panel of " << w << ")";
      s << ": " << r->name;
      if (low != r) s << ", many rows over a small panel: " << low->name;
      if (r->isa != active) s << "  (the " << isa_name(active) << " path has none of its own)";
      s << "\n";
    }
  }
  return s.str();
}

}  // namespace qgemm

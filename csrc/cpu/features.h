// What this CPU and operating system can execute.
#pragma once

namespace qgemm {

struct CpuFeatures {
  bool avx2 = false, fma = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false, avx512vnni = false, avx512vbmi = false,
       avx512bf16 = false;
  bool avxvnni = false;
  bool amx_tile = false, amx_int8 = false;
  bool dotprod = false, i8mm = false;
};

// Detected once, on first use. An extension counts only when the OS saves its registers (XCR0).
const CpuFeatures& cpu_features();

}  // namespace qgemm

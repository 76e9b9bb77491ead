// A test for every row of kernels.def. A row whose operation has no tester in kernel_testers.h does not compile.
#include "kernel_testers.h"

namespace qgemm {
namespace test {
namespace {

void run(void (*tester)(const KernelRow&), Isa isa, const char* name) {
  if (!isa_available(isa)) GTEST_SKIP() << "this CPU cannot run the " << isa_name(isa) << " path";
  for (const KernelRow& row : kernel_rows())
    if (std::string(name) == row.name) return tester(row);
  FAIL() << name << " is not in the dispatch table";
}

#define QGEMM_KERNEL(op, types, mr, nr, isa) \
  TEST(Kernels, op##_##types##_##mr##x##nr##__##isa) { run(test_##op, Isa::isa, #op "_" #types "_" #mr "x" #nr "__" #isa); }
#include "kernels/kernels.def"
#undef QGEMM_KERNEL

TEST(KernelList, EveryOperationHasAReference) {
  for (const KernelRow& row : kernel_rows()) {
    bool found = false;
    for (const KernelRow& other : kernel_rows()) found = found || (other.isa == Isa::ref && std::string(other.op) == row.op);
    EXPECT_TRUE(found) << row.name << " has no reference to be held to";
  }
}

TEST(KernelList, NamesAreUnique) {
  std::vector<std::string> names;
  for (const KernelRow& row : kernel_rows()) {
    for (const std::string& name : names) EXPECT_NE(name, row.name);
    names.push_back(row.name);
  }
}

TEST(KernelList, AForcedPathRunsItsOwnKernels) {
  for (Isa isa : runnable_isas()) {
    Forced forced(isa);
    EXPECT_EQ(active_isa(), isa);
    for (const KernelRow& row : kernel_rows()) {
      if (row.isa != isa) continue;
      if (std::string(row.op) == "gemm") {
        for (const GemmKernel* k : {&table().gemm_for(row.nr), &table().low_gemm_for(row.nr)})
          EXPECT_NE(std::string(k->name).find(isa_name(isa)), std::string::npos) << row.name;
      }
      if (std::string(row.op) == "lut") {
        EXPECT_EQ(reinterpret_cast<void (*)()>(table().lut), row.fn) << row.name;
      }
    }
  }
}

TEST(KernelList, AnUnknownPathIsRefused) {
  EXPECT_ANY_THROW(force_isa("sse2"));
  EXPECT_NE(explain().find("<- active"), std::string::npos);
}

}  // namespace
}  // namespace test
}  // namespace qgemm

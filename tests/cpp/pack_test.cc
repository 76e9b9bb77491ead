// Packed weights: what `pack` refuses, and what `view` makes of a damaged buffer. (That unpacking gives the weights back is part
// of every driver test.)
#include <functional>
#include <limits>

#include "cpu/error.h"
#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

Layer linear_layer(int64_t n, int64_t k, int8_t value) {
  Layer layer;
  layer.weight.assign(static_cast<size_t>(n * k), value);
  layer.scale.assign(1, 0.5f);
  layer.spec.n = n;
  layer.spec.k = k;
  layer.spec.weight = layer.weight.data();
  layer.spec.scale = layer.scale.data();
  layer.spec.name = "fc";
  return layer;
}

// The code and text of the Error that `f` throws.
struct Thrown {
  bool any = false;
  Code code = Code::config;
  std::string text;
};
Thrown thrown_by(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return {true, e.code(), e.what()};
  }
  return {};
}

Thrown pack_error(const Layer& layer) {
  return thrown_by([&] {
    std::vector<uint8_t> bytes(static_cast<size_t>(packed_bytes(layer.spec)));
    pack(layer.spec, bytes.data());
  });
}

TEST(Pack, RefusesAnAccumulatorThatCouldLeaveInt32) {
  // 255 * 128 * 65793 = 2147483520, the last K that fits; one more does not.
  EXPECT_FALSE(pack_error(linear_layer(1, 65793, -128)).any);
  const Thrown t = pack_error(linear_layer(1, 65794, -128));
  EXPECT_EQ(t.code, Code::overflow);
  EXPECT_NE(t.text.find("fc"), std::string::npos) << t.text;
  EXPECT_NE(t.text.find("channel 0"), std::string::npos) << t.text;
  // A zero point in the middle halves the range: twice the K fits.
  Layer centred = linear_layer(1, 2 * 65000, -128);
  centred.spec.x_zero_point = 128;
  EXPECT_FALSE(pack_error(centred).any);
  // A dynamic input may have any zero point, so it gets no such credit.
  centred.spec.x_zero_point = 0;
  centred.spec.dynamic = true;
  EXPECT_EQ(pack_error(centred).code, Code::overflow);
}

TEST(Pack, RefusesValuesWithoutMeaning) {
  Layer layer = linear_layer(3, 8, 1);
  for (float scale : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    layer.scale[0] = scale;
    EXPECT_EQ(pack_error(layer).code, Code::quantization);
  }
  layer.scale[0] = 1;
  layer.spec.x_zero_point = 256;
  EXPECT_EQ(pack_error(layer).code, Code::quantization);
  layer.spec.x_zero_point = 0;
  layer.spec.scale_count = 2;
  EXPECT_EQ(pack_error(layer).code, Code::shape);
  layer.spec.scale_count = 1;
  layer.spec.bits = 4;
  EXPECT_FALSE(pack_error(layer).any);
  layer.weight[5] = 8;
  EXPECT_EQ(pack_error(layer).code, Code::quantization);
  layer.spec.bits = 5;
  EXPECT_TRUE(pack_error(layer).any);
  layer.spec.bits = 8;
  layer.spec.group_size = 3;
  EXPECT_TRUE(pack_error(layer).any);
}

TEST(Pack, RefusesEveryCutAndEveryChangedHeaderByte) {
  const Layer layer = linear_layer(20, 9, 3);
  Guarded memory(1 << 16);
  const int64_t bytes = packed_bytes(layer.spec);
  std::vector<uint8_t> whole(static_cast<size_t>(bytes));
  pack(layer.spec, whole.data());
  EXPECT_EQ(view(whole.data(), bytes).n, 20);
  for (int64_t cut = 0; cut < bytes; ++cut) {
    uint8_t* p = memory.place<uint8_t>(static_cast<size_t>(cut), Side::end);
    std::memcpy(p, whole.data(), static_cast<size_t>(cut));
    now_testing("a buffer of %d bytes cut to %d", int(bytes), int(cut));
    ASSERT_EQ(thrown_by([&] { view(p, cut); }).code, Code::packed) << current_case();
  }
  Rng rng(300);
  uint8_t* p = memory.place(whole, Side::end);
  for (int i = 0; i < 128; ++i)
    for (int flip : {1, 128, 255}) {
      p[i] = static_cast<uint8_t>(p[i] ^ flip);
      const Thrown t = thrown_by([&] { view(p, bytes); });
      // Bytes 108..127 lie after the checksum and are not read.
      if (i < 108) {
        ASSERT_EQ(t.code, Code::packed) << "byte " << i << " ^ " << flip;
      }
      p[i] = whole[static_cast<size_t>(i)];
    }
}

TEST(Pack, NoiseIsNotAWeight) {
  Rng rng(301);
  Guarded memory(1 << 12);
  for (int i = 0; i < cases(20000); ++i) {
    const size_t bytes = static_cast<size_t>(rng.between(0, 1000));
    uint8_t* p = memory.place<uint8_t>(bytes, Side::end);
    fill(rng, Mood::uniform, p, static_cast<int64_t>(bytes));
    if (bytes > 8 && rng.chance(50)) std::memcpy(p, "QGPACK05", 8);
    ASSERT_EQ(thrown_by([&] { view(p, static_cast<int64_t>(bytes)); }).code, Code::packed);
  }
}

TEST(Pack, TheSameWeightGivesTheSameBytes) {
  Rng rng(302);
  Layer layer;
  layer.spec.kind = PackedKind::linear;
  layer.spec.k = 700;
  layer.fill_values(rng, 600, 700, false, 600);  // large enough to be packed in parallel
  std::vector<uint8_t> a(static_cast<size_t>(packed_bytes(layer.spec)), 0x11), b(a.size(), 0xEE);
  pack(layer.spec, a.data());
  pack(layer.spec, b.data());
  EXPECT_EQ(a, b) << "a byte of the buffer was left unwritten";
}

TEST(Pack, DepthwisePositionsAreAPermutation) {
  std::vector<bool> seen(128);
  for (int64_t c = 0; c < 128; ++c) {
    const int64_t p = depthwise_position(c);
    ASSERT_EQ(p / 64, c / 64);
    ASSERT_FALSE(seen[static_cast<size_t>(p)]);
    seen[static_cast<size_t>(p)] = true;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm

// Moves and interpolation of images against their definition: every path, 1 and 2 threads.
#include "ops/images.h"

#include <algorithm>

#include "driver_case.h"

namespace qgemm {
namespace test {
namespace {

TEST(Images, GiveTheDefinedBytes) {
  Rng rng(601);
  Guarded x_memory(1 << 18), rows(4096), rows_hi(4096), columns(4096), columns_hi(4096), row_t(4096), column_t(4096);
  Output got(1 << 20);
  for (int i = 0; i < cases(12000); ++i) {
    ImageShape s{rng.between(0, 2), rng.between(1, 6), rng.between(1, 7), rng.pick<int64_t>({1, 3, 16, 31, 64, 65, 130})};
    const int what = static_cast<int>(rng.between(0, 5));
    const int64_t block = rng.between(1, 3);
    if (what == 3) s.c = block * block * rng.pick<int64_t>({1, 3, 16, 20});
    if (what == 3 || what == 4) s.w = rng.between(1, 40);  // also more than are permuted at once
    if (what == 5) s.h = block * rng.between(1, 3), s.w = block * rng.between(1, 9);
    const int64_t factor = what == 0 && rng.chance(50) ? rng.between(2, 4) : 0;  // every pixel of a row repeated as often
    if (factor) s.w = rng.between(1, 20);
    const bool twice = what == 1 && rng.chance(50);  // a linear interpolation that doubles width, and height perhaps
    if (twice) s.w = rng.between(1, 12), s.c = rng.pick<int64_t>({1, 3, 16, 24, 31, 64, 65});
    const int64_t bytes = s.batch * s.h * s.w * s.c;
    uint8_t* x = x_memory.place<uint8_t>(static_cast<size_t>(bytes), rng.chance(50) ? Side::start : Side::end);
    fill(rng, any_mood(rng), x, bytes);
    now_testing("images what=%d x=%dx%dx%dx%d block=%d", what, int(s.batch), int(s.h), int(s.w), int(s.c), int(block));
    const auto at = [&](int64_t b, int64_t y, int64_t w, int64_t c) { return x[((b * s.h + y) * s.w + w) * s.c + c]; };
    std::vector<uint8_t> want;
    int64_t oh = 1, ow = 1, oc = s.c;
    std::function<void(void*)> call;
    const auto each = [&](auto value) {
      for (int64_t b = 0; b < s.batch; ++b)
        for (int64_t y = 0; y < oh; ++y)
          for (int64_t w = 0; w < ow; ++w)
            for (int64_t c = 0; c < oc; ++c) want.push_back(value(b, y, w, c));
    };
    std::vector<int32_t> ys, xs, ys_hi, xs_hi;
    std::vector<float> ty, tx;
    if (what <= 1) {
      oh = rng.between(0, 9);
      ow = rng.between(0, 9);
      for (int64_t y = 0; y < oh; ++y) ys.push_back(static_cast<int32_t>(rng.between(0, s.h - 1)));
      for (int64_t w = 0; w < ow; ++w) xs.push_back(static_cast<int32_t>(rng.between(0, s.w - 1)));
      std::sort(ys.begin(), ys.end());
    }
    if (factor) {
      ow = factor * s.w;
      xs.clear();
      for (int64_t w = 0; w < ow; ++w) xs.push_back(static_cast<int32_t>(w / factor));
      const int64_t times = rng.between(0, 3);  // and every row
      if (times) ys.clear(), oh = times * s.h;
      for (int64_t y = 0; times && y < oh; ++y) ys.push_back(static_cast<int32_t>(y / times));
    }
    const auto halves = [&](int64_t n, std::vector<int32_t>& lo, std::vector<int32_t>& hi, std::vector<float>& t) {
      lo.clear();
      for (int64_t w = 0; w < 2 * n; ++w) {  // half-pixel centres
        lo.push_back(static_cast<int32_t>(std::max<int64_t>(w - 1, 0) / 2));
        hi.push_back(static_cast<int32_t>(std::min((w + 1) / 2, n - 1)));
        t.push_back(w == 0 ? 0.0f : w % 2 ? 0.25f : 0.75f);
      }
    };
    if (twice) halves(s.w, xs, xs_hi, tx), ow = 2 * s.w;
    if (twice && rng.chance(50)) halves(s.h, ys, ys_hi, ty), oh = 2 * s.h;
    const Encoding8 e{rng.chance(5) ? 1e-37f : rng.uniform(0.01f, 1), static_cast<int32_t>(rng.between(0, 255))};
    OutputSpec spec = any_output(rng, 255 * e.scale, false);
    spec.type = OutType::u8;
    const int64_t pad[4] = {rng.between(0, 2), rng.between(0, 2), rng.between(0, 2), rng.between(0, 2)};
    const bool channels_first = rng.chance(50);
    if (what == 0) {
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) {
        return at(b, ys[static_cast<size_t>(y)], xs[static_cast<size_t>(w)], c);
      });
      const int32_t *at_y = rows.place(ys, Side::end), *at_x = columns.place(xs, Side::end);
      call = [=](void* o) { resize_nearest(x, s, oh, ow, at_y, at_x, static_cast<uint8_t*>(o)); };
    } else if (what == 1) {
      if (ys_hi.empty())
        for (int32_t y : ys) ys_hi.push_back(std::min(y + 1, static_cast<int32_t>(s.h - 1))), ty.push_back(rng.uniform(0, 1));
      if (xs_hi.empty())
        for (int32_t w : xs) xs_hi.push_back(std::min(w + 1, static_cast<int32_t>(s.w - 1))), tx.push_back(rng.uniform(0, 1));
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) {
        const size_t iy = static_cast<size_t>(y), ix = static_cast<size_t>(w);
        const auto real = [&](int64_t yy, int64_t xx) { return e.scale * static_cast<float>(at(b, yy, xx, c) - e.zero_point); };
        const auto between = [](float l, float r, float t) {
          const float a = l * (1.0f - t), d = r * t;
          return a + d;
        };
        const float left = between(real(ys[iy], xs[ix]), real(ys_hi[iy], xs[ix]), ty[iy]),
                    right = between(real(ys[iy], xs_hi[ix]), real(ys_hi[iy], xs_hi[ix]), ty[iy]);
        uint8_t q;
        store_float(spec, between(left, right, tx[ix]), &q);
        return q;
      });
      const LinearAxis y{oh, rows.place(ys, Side::end), rows_hi.place(ys_hi, Side::end), row_t.place(ty, Side::end)},
          w{ow, columns.place(xs, Side::end), columns_hi.place(xs_hi, Side::end), column_t.place(tx, Side::end)};
      call = [=](void* o) { resize_linear(x, s, e, y, w, static_cast<uint8_t*>(o), spec); };
    } else if (what == 2) {
      oh = pad[0] + s.h + pad[2];
      ow = pad[1] + s.w + pad[3];
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) {
        const int64_t iy = y - pad[0], ix = w - pad[1];
        return iy >= 0 && iy < s.h && ix >= 0 && ix < s.w ? at(b, iy, ix, c) : uint8_t(77);
      });
      call = [&](void* o) { pad_image(x, s, pad[0], pad[1], pad[2], pad[3], 77, static_cast<uint8_t*>(o)); };
    } else if (what == 3) {
      oh = s.h * block;
      ow = s.w * block;
      oc = s.c / (block * block);
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) {
        const int64_t p = y % block * block + w % block;
        return at(b, y / block, w / block, channels_first ? c * block * block + p : p * oc + c);
      });
      call = [&](void* o) { depth_to_space(x, s, block, channels_first, static_cast<uint8_t*>(o)); };
    } else if (what == 5) {
      oh = s.h / block;
      ow = s.w / block;
      oc = s.c * block * block;
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) {
        const int64_t p = channels_first ? c % (block * block) : c / s.c, k = channels_first ? c / (block * block) : c % s.c;
        return at(b, y * block + p / block, w * block + p % block, k);
      });
      call = [&](void* o) { space_to_depth(x, s, block, channels_first, static_cast<uint8_t*>(o)); };
    } else {
      oh = s.h;
      ow = s.w;
      for (int64_t c = 0; c < s.c; ++c) xs.push_back(static_cast<int32_t>(rng.between(0, s.c - 1)));
      each([&](int64_t b, int64_t y, int64_t w, int64_t c) { return at(b, y, w, xs[static_cast<size_t>(c)]); });
      const int32_t* index = columns.place(xs, Side::end);
      call = [=](void* o) { permute_channels(x, s.batch * s.h * s.w, s.c, index, static_cast<uint8_t*>(o)); };
    }
    if (!same_everywhere(got, want, s.batch * oh * ow, oc, oc, Side::end, call)) return;
  }
}

}  // namespace
}  // namespace test
}  // namespace qgemm

// Constants of the elementary functions, the same for every ISA. Polynomials are minimax fits of this project, in fp32.
#pragma once

namespace qgemm {

// exp(x) = 2^n * (1 + r + r^2 * q(r)), n = rint(x * log2(e)), r = x - n * ln 2 in two steps, |r| <= ln(2) / 2. The fit's relative
// error is 2^-28; with the roundings the result is within 1 ulp.
constexpr float kLog2E = 0x1.715476p+0f;
constexpr float kLn2Hi = 0x1.62e43p-1f, kLn2Lo = -0x1.05c61p-29f;
constexpr float kExp2 = 0x1.fffffcp-2f, kExp3 = 0x1.555492p-3f, kExp4 = 0x1.5558f2p-5f, kExp5 = 0x1.123a2p-7f,
                kExp6 = 0x1.6a23cep-10f;

// Softmax takes exp as 0 below this: smaller than the smallest normal float.
constexpr float kSoftmaxFloor = -87.0f;
// Fixed point of its sum: exp <= 1 fits int32.
constexpr float kSoftmaxOne = 0x1p30f;

}  // namespace qgemm

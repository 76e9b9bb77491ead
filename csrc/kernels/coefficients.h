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

// tanh(x) = x + x^3 * p(x^2) below kTanhSmall, 1 - 2 / (exp(2 x) + 1) above.
constexpr float kTanhSmall = 0.625f;
constexpr float kTanh[6] = {-0x1.555554p-2f, 0x1.11105ap-3f, -0x1.b9ebf4p-5f, 0x1.636de4p-6f, -0x1.0b5f50p-7f, 0x1.16b058p-9f};

// erf(x) = x + x * p(x^2) below 1, 1 - exp(-q(x)) above, 1 from kErfOne on.
constexpr float kErfOne = 4.0f;
constexpr float kErfSmall[7] = {0x1.06eba8p-3f, -0x1.81273ep-2f,  0x1.ce2cf8p-4f, -0x1.b7f90ep-6f,
                                0x1.5405b6p-8f, -0x1.a3f718p-11f, 0x1.496a6cp-14f};
constexpr float kErfLarge[8] = {-0x1.8b3f44p-13f, 0x1.212c2cp+0f, 0x1.4434f0p-1f,   0x1.bc18d0p-4f,
                                -0x1.9d0bd6p-6f,  0x1.1398fcp-8f, -0x1.ceeaf4p-12f, 0x1.6c0698p-16f};

}  // namespace qgemm

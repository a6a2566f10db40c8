// Vectors of numbers, and functions of vectors.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace kernels {

#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2;
#else
constexpr int LANES = 4, VECTORS = 2;
#endif

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));

inline V load(const float *from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float *to, V v) { std::memcpy(to, &v, sizeof v); }
// Written out, since compilers compute V{} + x as an addition.
#if defined(__AVX512F__)
inline V splat(float x) { return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
inline Int splat(int32_t x) { return Int{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
#elif defined(__AVX__)
inline V splat(float x) { return V{x, x, x, x, x, x, x, x}; }
inline Int splat(int32_t x) { return Int{x, x, x, x, x, x, x, x}; }
#else
inline V splat(float x) { return V{x, x, x, x}; }
inline Int splat(int32_t x) { return Int{x, x, x, x}; }
#endif
// a > b ? a : b, and a < b ? a : b: b if one of them is NaN. Compilers make two instructions of it.
#if defined(__AVX512F__)
inline V largest(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
inline V smallest(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
inline V largest(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
inline V smallest(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
#else
inline V largest(V a, V b) { return a > b ? a : b; }
inline V smallest(V a, V b) { return a < b ? a : b; }
#endif

// a · b + c with one rounding, if the CPU can. Written out, since GCC's tuning for some AMD CPUs
// contracts a * b + c in a loop with several sums, but not in a loop with a single sum.
#if defined(__AVX512F__)
inline V fused(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__AVX__) && defined(__FMA__)
inline V fused(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
inline V fused(V a, V b, V c) { return a * b + c; }
#endif

#if defined(__AVX512F__)
inline float total(V v) { return _mm512_reduce_add_ps((__m512)v); }
inline float largest_lane(V v) { return _mm512_reduce_max_ps((__m512)v); }
inline V reciprocal(V x) {  // x neither tiny nor infinite
  const V guess = (V)_mm512_rcp14_ps((__m512)x);
  return guess * (splat(2.0f) - x * guess);
}
#else
inline float total(V v) {
  float sum = 0.0f;
  for (int i = 0; i < LANES; ++i) sum += v[i];
  return sum;
}
inline float largest_lane(V v) {
  float most = v[0];
  for (int i = 1; i < LANES; ++i) most = v[i] > most ? v[i] : most;
  return most;
}
inline V reciprocal(V x) { return splat(1.0f) / x; }
#endif

inline bool all_lanes(Int v) {
  bool all = true;
  for (int i = 0; i < LANES; ++i) all &= v[i] != 0;
  return all;
}

// The polynomials have the least maximal relative error over their range; they were fitted by
// iteratively reweighted least squares.

#if defined(__AVX512DQ__)

// 2^f for f in [0, 1], within 1.5e-7 of it.
inline V exp2_fraction(V f) {
  V p = splat(0.0018775766948238015f);
  p = p * f + splat(0.008989340625703335f);
  p = p * f + splat(0.05582631751894951f);
  p = p * f + splat(0.24015361070632935f);
  p = p * f + splat(0.6931530833244324f);
  return p * f + splat(0.9999999403953552f);
}

// x − ⌊x⌋, and v · 2^⌊x⌋
inline V fraction(V x) { return (V)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF); }
inline V scaled(V v, V x) { return (V)_mm512_scalef_ps((__m512)v, (__m512)x); }

// 2^x
inline V exp2(V x) { return scaled(exp2_fraction(fraction(x)), x); }

inline V exp(V x) {
  // Beyond these it is 0 or infinite, and what rounding takes from y would outgrow the polynomial.
  x = smallest(splat(90.0f), largest(splat(-105.0f), x));  // in this order a NaN stays
  const V log2_e = splat(1.44269504f), y = x * log2_e;
  // Adds what rounding took from y, an error that grows with y.
  const V lost =
      (V)_mm512_fmsub_ps((__m512)x, (__m512)log2_e, (__m512)y) + x * splat(1.92596303e-8f);
  return scaled(exp2_fraction(fraction(y) + lost), y);
}

#else

// 2^f for f in [−½, ½], within 7.5e-8 of it.
inline V exp2_fraction(V f) {
  V p = splat(0.0013276472454890609f);
  p = p * f + splat(0.009675547480583191f);
  p = p * f + splat(0.05550713464617729f);
  p = p * f + splat(0.24022120237350464f);
  p = p * f + splat(0.6931469440460205f);
  return p * f + splat(1.0f);
}

constexpr float MAGIC = 12582912.0f;  // 1.5 · 2^23: adding it rounds to whole numbers

// p · 2^n of an exponent n that has been rounded by adding MAGIC.
inline V scaled(V p, V rounded) { return (V)((Int)p + ((Int)rounded << 23)); }

// 2^x for x <= 127; not less than 2^-126.
inline V exp2(V x) {
  x = largest(splat(-126.0f), x);  // in this order a NaN stays
  V rounded = x + splat(MAGIC);
  return scaled(exp2_fraction(x - (rounded - splat(MAGIC))), rounded);
}

inline V exp(V x) {
  x = smallest(splat(88.0f), largest(splat(-87.0f), x));
  V rounded = x * splat(1.44269504f) + splat(MAGIC), n = rounded - splat(MAGIC);
  // ln 2 in two parts. The first has few bits, so that n times it is exact.
  V rest = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
  return scaled(exp2_fraction(rest * splat(1.44269504f)), rounded);
}

#endif

// log(1 + t) for t in [0, 1], within 1.3e-7 of it.
inline V log_plus_one(V t) {
  V p = splat(0.005232694558799267f);
  p = p * t + splat(-0.02950524166226387f);
  p = p * t + splat(0.07822596281766891f);
  p = p * t + splat(-0.13663247227668762f);
  p = p * t + splat(0.19106008112430573f);
  p = p * t + splat(-0.2484298199415207f);
  p = p * t + splat(0.3331909775733948f);
  p = p * t + splat(-0.4999949336051941f);
  return t * (p * t + splat(0.9999999403953552f));
}

// The natural logarithm of normal positive x, within 1.2e-7 · max(1, |log x|).
#if defined(__AVX512F__)
inline V log(V x) {
  const V mantissa = (V)_mm512_getmant_ps((__m512)x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
  return (V)_mm512_getexp_ps((__m512)x) * splat(0.69314718f) + log_plus_one(mantissa - splat(1.0f));
}
#else
inline V log(V x) {
  Int exponent = ((Int)x >> 23) - 127;
  V mantissa = (V)((Int)x - (exponent << 23)), n = __builtin_convertvector(exponent, V);
  return n * splat(0.69314718f) + log_plus_one(mantissa - splat(1.0f));
}
#endif

inline V silu(V x) { return x * reciprocal(splat(1.0f) + exp(-largest(x, splat(-80.0f)))); }

// log(1 + e^x)
inline V softplus(V x) {
  return largest(x, splat(0.0f)) + log_plus_one(exp(x > splat(0.0f) ? -x : x));
}

#if defined(__AVX512FP16__)

constexpr int HALVES = 32;
typedef _Float16 Half;
typedef Half H __attribute__((vector_size(HALVES * 2)));

inline H load(const Half *from) {
  H v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The first or second half of v in float32.
template <int PART>
V widened(H v) {
  return (V)_mm512_cvtxph_ps((__m256h)_mm512_extracti64x4_epi64((__m512i)v, PART));
}

inline H half(float x) { return (H)_mm512_set1_ph(Half(x)); }

inline H narrowed(V first, V second) {
  const __m512i low = _mm512_castsi256_si512((__m256i)_mm512_cvtxps_ph((__m512)first));
  return (H)_mm512_inserti64x4(low, (__m256i)_mm512_cvtxps_ph((__m512)second), 1);
}

// 2^x within a few units in the last place of float16.
inline H exp2(H x) {
  const __m512h f = _mm512_reduce_ph((__m512h)x, _MM_FROUND_TO_NEG_INF);
  H p = half(0.0780029296875f);
  p = p * (H)f + half(0.22607421875f);
  p = p * (H)f + half(0.69580078125f);
  p = p * (H)f + half(1.0f);
  return (H)_mm512_scalef_ph((__m512h)p, (__m512h)x);
}

#else

constexpr int HALVES = 0;

#endif

}  // namespace kernels

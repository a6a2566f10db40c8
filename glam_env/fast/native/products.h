// Products of rows with the weights of a layer.

#pragma once

#include "interface.h"
#include "threads.h"
#include "vectors.h"

namespace kernels {

constexpr int PANEL = VECTORS * LANES;

// Rows whose sums fit the registers, together with that many vectors of weights and an input. Few
// rows of many vectors load less than many rows of few vectors.
constexpr int tile_rows(int vectors) {
  return vectors == 4 ? 6 : vectors == 3 ? 8 : VECTORS == 4 ? 12 : 6;
}

template <int ROWS, int WIDE>
void tile(const float *a, int64_t stride, const float *weight, const float *bias, int64_t in,
          float *c, int64_t out) {
  V sums[ROWS][WIDE];
  for (int row = 0; row < ROWS; ++row)
    for (int v = 0; v < WIDE; ++v) sums[row][v] = bias ? load(bias + v * LANES) : splat(0.0f);
  for (int64_t k = 0; k < in; ++k) {
    V weights[WIDE];
    for (int v = 0; v < WIDE; ++v) weights[v] = load(weight + (k * WIDE + v) * LANES);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; ++row) {
      const V x = splat(a[row * stride + k]);
      for (int v = 0; v < WIDE; ++v) sums[row][v] = fused(x, weights[v], sums[row][v]);
    }
  }
  for (int row = 0; row < ROWS; ++row)
    for (int v = 0; v < WIDE; ++v) store(c + row * out + v * LANES, sums[row][v]);
}

template <int ROWS, int WIDE>
void tile_of(int64_t rows, const float *a, int64_t stride, const float *weight, const float *bias,
             int64_t in, float *c, int64_t out) {
  if (rows == ROWS) tile<ROWS, WIDE>(a, stride, weight, bias, in, c, out);
  else if constexpr (ROWS > 1)
    tile_of<ROWS - 1, WIDE>(rows, a, stride, weight, bias, in, c, out);
}

template <int WIDE>
void panel_of(int64_t vectors, const Dense &layer, int64_t at, const float *a, int64_t stride,
              float *c, int64_t rows) {
  if (vectors == WIDE) {
    constexpr int ROWS = tile_rows(WIDE);
    const float *weight = static_cast<const float *>(layer.weight) + at * layer.inputs;
    for (int64_t row = 0; row < rows; row += ROWS)
      tile_of<ROWS, WIDE>(rows - row < ROWS ? rows - row : ROWS, a + row * stride, stride, weight,
                          layer.bias ? layer.bias + at : nullptr, layer.inputs,
                          c + row * layer.outputs + at, layer.outputs);
  } else if constexpr (WIDE > 1) {
    panel_of<WIDE - 1>(vectors, layer, at, a, stride, c, rows);
  }
}

#if defined(__AVX512FP16__)

constexpr int64_t SUMMED = 64;  // products in a float16 sum, before it is added to float32

// Each input comes twice, as 32 bits, which the CPU broadcasts while it loads them.
template <int ROWS, int WIDE>
void half_tile(const int32_t *a, int64_t stride, const Half *weight, const float *bias, int64_t in,
               float *c, int64_t out) {
  for (int64_t begin = 0; begin < in; begin += SUMMED) {
    const int64_t end = in - begin < SUMMED ? in : begin + SUMMED;
    H sums[ROWS][WIDE] = {};
    for (int64_t k = begin; k < end; ++k) {
      H weights[WIDE];
      for (int v = 0; v < WIDE; ++v) weights[v] = load(weight + (k * WIDE + v) * HALVES);
#pragma GCC unroll 16
      for (int row = 0; row < ROWS; ++row) {
        const H x = (H)splat(a[row * stride + k]);
        for (int v = 0; v < WIDE; ++v) sums[row][v] += x * weights[v];
      }
    }
    for (int row = 0; row < ROWS; ++row)
      for (int v = 0; v < WIDE; ++v) {
        float *to = c + row * out + v * HALVES;
        const float *more = begin ? to : bias ? bias + v * HALVES : nullptr;
        V first = widened<0>(sums[row][v]), second = widened<1>(sums[row][v]);
        store(to, more ? first + load(more) : first);
        store(to + LANES, more ? second + load(more + LANES) : second);
      }
  }
}

template <int ROWS, int WIDE>
void half_tile_of(int64_t rows, const int32_t *a, int64_t stride, const Half *weight,
                  const float *bias, int64_t in, float *c, int64_t out) {
  if (rows == ROWS) half_tile<ROWS, WIDE>(a, stride, weight, bias, in, c, out);
  else if constexpr (ROWS > 1)
    half_tile_of<ROWS - 1, WIDE>(rows, a, stride, weight, bias, in, c, out);
}

template <int WIDE>
void half_panel_of(int64_t vectors, const Dense &layer, int64_t at, const int32_t *a, float *c,
                   int64_t rows) {
  if (vectors == WIDE) {
    constexpr int ROWS = tile_rows(WIDE);
    const Half *weight = static_cast<const Half *>(layer.weight) + at * layer.inputs;
    for (int64_t row = 0; row < rows; row += ROWS)
      half_tile_of<ROWS, WIDE>(rows - row < ROWS ? rows - row : ROWS, a + row * layer.inputs,
                               layer.inputs, weight, layer.bias ? layer.bias + at : nullptr,
                               layer.inputs, c + row * layer.outputs + at, layer.outputs);
  } else if constexpr (WIDE > 1) {
    half_panel_of<WIDE - 1>(vectors, layer, at, a, c, rows);
  }
}

inline void half_dense(const Dense &layer, const float *a, int64_t stride, float *c, int64_t rows,
                       Arena &arena) {
  int32_t *rounded = arena.rounded(rows * layer.inputs);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < layer.inputs; i += LANES) {
      const __m256h h = _mm512_cvtxps_ph((__m512)load(a + row * stride + i));
      const Int once = (Int)_mm512_cvtepu16_epi32((__m256i)h), twice = once | once << 16;
      std::memcpy(rounded + row * layer.inputs + i, &twice, sizeof twice);
    }
  constexpr int64_t WHOLE = VECTORS * HALVES;
  for (int64_t at = 0; at < layer.outputs; at += WHOLE) {
    const int64_t left = (layer.outputs - at) / HALVES;
    half_panel_of<VECTORS>(left < VECTORS ? left : VECTORS, layer, at, rounded, c, rows);
  }
}

#else

inline void half_dense(const Dense &, const float *, int64_t, float *, int64_t, Arena &) {}

#endif

// c (rows, outputs) = a (rows, inputs; rows `stride` apart) · weight + bias. If the weights are
// float16, `inputs` is whole vectors, and a and all sums of `SUMMED` products are rounded to
// float16.
inline void dense(const Dense &layer, const float *a, int64_t stride, float *c, int64_t rows,
                  Arena &arena) {
  if (layer.half) return half_dense(layer, a, stride, c, rows, arena);
  for (int64_t at = 0; at < layer.outputs; at += PANEL) {
    const int64_t left = (layer.outputs - at) / LANES;
    panel_of<VECTORS>(left < VECTORS ? left : VECTORS, layer, at, a, stride, c, rows);
  }
}

}  // namespace kernels

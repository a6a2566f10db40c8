// Sums of rows of a table: products of one-hot vectors with the weights of a layer.

#pragma once

#include "vectors.h"

namespace kernels {

constexpr int SUMS = 8;  // vectors of a row that are summed together, in registers

template <int WIDE>
void sum_columns(const float *table, int64_t stride, const int64_t *code, int64_t categoricals,
                 int64_t classes, const float *start, float *to) {
  V sums[WIDE];
#pragma GCC unroll 8
  for (int v = 0; v < WIDE; ++v) sums[v] = start ? load(start + v * LANES) : splat(0.0f);
  for (int64_t k = 0; k < categoricals; ++k) {
    const float *from = table + (k * classes + code[k]) * stride;
#pragma GCC unroll 8
    for (int v = 0; v < WIDE; ++v) sums[v] += load(from + v * LANES);
  }
#pragma GCC unroll 8
  for (int v = 0; v < WIDE; ++v) store(to + v * LANES, sums[v]);
}

// to (width) = start (width; null: 0) + the table's row of each categorical's code. Rows lie
// `stride` numbers apart.
inline void sum_rows(const float *table, int64_t stride, const int64_t *code, int64_t categoricals,
                     int64_t classes, const float *start, float *to, int64_t width) {
  int64_t at = 0;
  for (; at + SUMS * LANES <= width; at += SUMS * LANES)
    sum_columns<SUMS>(table + at, stride, code, categoricals, classes, start ? start + at : nullptr,
                      to + at);
  for (; at < width; at += LANES)
    sum_columns<1>(table + at, stride, code, categoricals, classes, start ? start + at : nullptr,
                   to + at);
}

}  // namespace kernels

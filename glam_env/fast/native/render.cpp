// Renders dreams with 8-bit integers on a CPU with AVX512-VNNI: the arithmetic of fast/render.py
// (IntegerRenderer), one frame at a time, so that its maps stay in the caches.
//
// Maps are channels last, with a border of zeros. A transposed convolution of kernel 4 and stride 2
// computes each of four kinds of output pixels (odd or even rows and columns) from 2 x 2 input
// pixels; the kinds share no intermediate numbers.

#include "interface.h"
#include "threads.h"

#include <cmath>
#include <cstring>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

namespace {

using namespace kernels;

constexpr int SIDE = 64, FIRST_SIDE = 4, HIDDEN = 3;
constexpr int64_t BLOCK = 16;  // frames that a thread takes at a time

inline __m512i four(const uint8_t *from) {
  int32_t word;
  std::memcpy(&word, from, 4);
  return _mm512_set1_epi32(word);
}

// max(0, sum · scale + bias), rounded, at most 255.
inline __m128i levels(__m512i sum, __m512 scale, __m512 bias) {
  __m512i rounded = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, bias));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(rounded, _mm512_setzero_si512()));
}

// Computes ROWS x COLUMNS output pixels of one kind, 16 · VECTORS of their channels. `from` is the
// upper left of the 2 x 2 inputs of the first pixel; `to` is the first pixel; pixels are 2 rows and
// columns apart.
template <int ROWS, int COLUMNS, int VECTORS>
void pixels(const Layer &layer, int64_t kind, int64_t channel, const uint8_t *from,
            int64_t from_row, uint8_t *to, int64_t to_row) {
  __m512i sums[ROWS][COLUMNS][VECTORS];
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < COLUMNS; ++c)
      for (int v = 0; v < VECTORS; ++v) sums[r][c][v] = _mm512_setzero_si512();
  const int64_t in = layer.inputs, stride = layer.outputs * 4;
  const int8_t *entry = layer.weight + kind * in * stride + channel * 4;
  for (int tap_row = 0; tap_row < 2; ++tap_row)
    for (int64_t k = 0; k < 2 * in; k += 4, entry += stride) {
      __m512i weights[VECTORS];
      for (int v = 0; v < VECTORS; ++v) weights[v] = _mm512_loadu_si512(entry + v * 64);
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const uint8_t *row = from + (r + tap_row) * from_row + k;
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c) {
          const __m512i inputs = four(row + c * in);
          for (int v = 0; v < VECTORS; ++v)
            sums[r][c][v] = _mm512_dpbusd_epi32(sums[r][c][v], inputs, weights[v]);
        }
      }
    }
  for (int v = 0; v < VECTORS; ++v) {
    const int64_t at = kind * layer.outputs + channel + v * 16;
    const __m512 scale = _mm512_loadu_ps(layer.scale + at);
    const __m512 bias = _mm512_loadu_ps(layer.bias + at);
    for (int r = 0; r < ROWS; ++r)
      for (int c = 0; c < COLUMNS; ++c) {
        uint8_t *pixel = to + 2 * r * to_row + 2 * c * layer.outputs + channel + v * 16;
        _mm_storeu_si128(reinterpret_cast<__m128i *>(pixel), levels(sums[r][c][v], scale, bias));
      }
  }
}

// Computes a map (2 · side, 2 · side), with `margin` columns of border left and right, from a map
// (side, side).
template <int ROWS, int COLUMNS, int VECTORS>
void transposed(const Layer &layer, int64_t side, const uint8_t *x, uint8_t *y, int64_t margin) {
  const int64_t from_row = (side + 2) * layer.inputs, to_row = 2 * (side + margin) * layer.outputs;
  for (int64_t kind = 0; kind < 4; ++kind) {
    const int64_t odd_row = kind / 2, odd_column = kind % 2;
    for (int64_t channel = 0; channel < layer.outputs; channel += 16 * VECTORS)
      for (int64_t row = 0; row < side; row += ROWS)
        for (int64_t column = 0; column < side; column += COLUMNS)
          pixels<ROWS, COLUMNS, VECTORS>(
              layer, kind, channel,
              x + (row + odd_row) * from_row + (column + odd_column) * layer.inputs, from_row,
              y + (2 * row + odd_row + 1) * to_row +
                  (2 * column + odd_column + margin) * layer.outputs,
              to_row);
  }
}

// Computes the first map from codes: sums of table entries, exact in 16 bits.
void begin(const Decoder &d, const int64_t *code, uint8_t *map) {
  const int64_t channels = d.hidden[0].inputs, width = FIRST_SIDE * FIRST_SIDE * channels;
  constexpr int64_t RUN = 4;  // vectors of 32 sums at a time
  for (int64_t at = 0; at < width; at += 32 * RUN) {
    __m512i sums[RUN];
    for (int v = 0; v < RUN; ++v) sums[v] = _mm512_setzero_si512();
    for (int64_t k = 0; k < d.categoricals; ++k) {
      const int8_t *entry = d.table + (k * d.classes + code[k]) * width + at;
      for (int v = 0; v < RUN; ++v) {
        const auto *part = reinterpret_cast<const __m256i *>(entry + 32 * v);
        sums[v] = _mm512_add_epi16(sums[v], _mm512_cvtepi8_epi16(_mm256_loadu_si256(part)));
      }
    }
    for (int64_t i = at; i < at + 32 * RUN; i += 16) {
      const __m512i pair = sums[(i - at) / 32];
      const __m256i half = (i - at) % 32 ? _mm512_extracti64x4_epi64(pair, 1)
                                         : _mm512_castsi512_si256(pair);
      const __m128i out = levels(_mm512_cvtepi16_epi32(half), _mm512_loadu_ps(d.table_scale + i),
                                 _mm512_loadu_ps(d.table_bias + i));
      const int64_t place = i / channels, row = place / FIRST_SIDE, column = place % FIRST_SIDE;
      uint8_t *pixel = map + ((row + 1) * (FIRST_SIDE + 2) + column + 1) * channels + i % channels;
      _mm_storeu_si128(reinterpret_cast<__m128i *>(pixel), out);
    }
  }
}

// Computes the frame: rows of pixels in 17 groups of 4, each from 2 x 3 input pixels, added to the
// background. The first 3 pixels of a row and its last one lie outside the image.
void finish(const Decoder &d, const uint8_t *x, uint8_t *frame) {
  constexpr int GROUPS = 17, TOGETHER = 6;
  const Layer &layer = d.last;
  const int64_t side = SIDE / 2, from_row = (side + 4) * layer.inputs, in = layer.inputs;
  const __m512 bias = _mm512_loadu_ps(layer.bias);
  uint8_t pieces[(GROUPS + 1) * 12 + 16];
  for (int64_t row = 0; row < SIDE; ++row) {
    const int64_t odd = row % 2;
    const int8_t *weight = layer.weight + odd * 6 * in * 16;
    const __m512 scale = _mm512_loadu_ps(layer.scale + odd * 16);
    const uint8_t *from = x + (row / 2 + odd) * from_row;
    const uint8_t *background = d.background + row * GROUPS * 12;
    for (int first = 0; first < GROUPS; first += TOGETHER) {
      const int some = GROUPS - first < TOGETHER ? GROUPS - first : TOGETHER;
      __m512i sums[TOGETHER];
      for (auto &sum : sums) sum = _mm512_setzero_si512();
      const int8_t *entry = weight;
      for (int tap_row = 0; tap_row < 2; ++tap_row)
        for (int64_t k = 0; k < 3 * in; k += 4, entry += 64) {
          const __m512i weights = _mm512_loadu_si512(entry);
          const uint8_t *at = from + tap_row * from_row + 2 * first * in + k;
          // Groups beyond the last one read what follows the row; their sums are not used.
#pragma GCC unroll 6
          for (int g = 0; g < TOGETHER; ++g)
            sums[g] = _mm512_dpbusd_epi32(sums[g], four(at + 2 * g * in), weights);
        }
      for (int g = 0; g < some; ++g) {
        const int64_t at = (first + g) * 12;
        const auto *behind = reinterpret_cast<const __m128i *>(background + at);
        const __m512 base = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(behind)));
        const __m128i out = levels(sums[g], scale, _mm512_add_ps(bias, base));
        _mm_storeu_si128(reinterpret_cast<__m128i *>(pieces + at), out);
      }
    }
    std::memcpy(frame + row * SIDE * 3, pieces + 9, SIDE * 3);
  }
}

}  // namespace

extern "C" {

int64_t glam_can_draw() { return 1; }

// Renders (count, categoricals) codes to (count, 64, 64, 3) frames. Returns 0; or 1, and does
// nothing, if a code is out of range.
int64_t glam_draw(const Decoder *d, const int64_t *codes, uint8_t *frames, int64_t count,
                  int64_t threads) {
  if (!all_below(codes, count * d->categoricals, d->classes)) return 1;
  in_blocks(count, BLOCK, threads, [&](int64_t first, int64_t some, Arena &arena) {
    uint8_t *maps[HIDDEN + 1];
    for (int at = 0; at <= HIDDEN; ++at) {
      const int64_t side = FIRST_SIDE << at;
      const int64_t channels = at < HIDDEN ? d->hidden[at].inputs : d->last.inputs;
      // The last layer reads two pixels beyond the image, and its unused groups read further.
      const int64_t bytes = (side + 3) * (side + 4) * channels;
      maps[at] = reinterpret_cast<uint8_t *>(arena.take((bytes + 3) / 4));
      std::memset(maps[at], 0, bytes);  // borders stay zero, each frame overwrites the rest
    }
    for (int64_t frame = first; frame < first + some; ++frame) {
      begin(*d, codes + frame * d->categoricals, maps[0]);
      transposed<2, 4, 2>(d->hidden[0], 4, maps[0], maps[1], 1);
      transposed<1, 8, 2>(d->hidden[1], 8, maps[1], maps[2], 1);
      if (d->hidden[2].outputs % 32) transposed<1, 16, 1>(d->hidden[2], 16, maps[2], maps[3], 2);
      else transposed<1, 8, 2>(d->hidden[2], 16, maps[2], maps[3], 2);
      finish(*d, maps[3], frames + frame * SIDE * SIDE * 3);
    }
  });
  return 0;
}

}  // extern "C"

#else

extern "C" {

int64_t glam_can_draw() { return 0; }

// Without the instructions it always refuses.
int64_t glam_draw(const kernels::Decoder *, const int64_t *, uint8_t *, int64_t, int64_t) {
  return 1;
}

}  // extern "C"

#endif

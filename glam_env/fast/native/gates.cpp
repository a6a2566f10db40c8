// What is around Mamba's scan: the convolution with SiLU, softplus, the gate, and their gradients.
//
// A lane is a channel, and `inner` is whole vectors. Tasks depend on the sizes alone, and sums over
// tasks run in order, so that the numbers do not depend on the number of threads.

#include "parts.h"
#include "threads.h"
#include "vectors.h"

namespace {

using namespace kernels;

constexpr int64_t ROWS = 64;          // of a task of the gate
constexpr int64_t NUMBERS = 1 << 14;  // of a task of softplus

inline V sigmoid(V x) {
  return reciprocal(splat(1.0f) + exp(-largest(splat(-80.0f), x)));
}

// The derivative of SiLU.
inline V silu_slope(V x) {
  const V s = sigmoid(x);
  return s * (splat(1.0f) + x * (splat(1.0f) - s));
}

// Inputs (batch, length, inner), and outputs (window, batch, windows, inner) of windows that start
// at neighbouring positions. Strides are in numbers.
struct Windows {
  int64_t batch, windows, window, inner, taps;
  int64_t row_stride, stride;                             // of the inputs
  int64_t out_position, out_row, out_window;              // of the outputs
  const float *x, *taps_of, *bias;                        // (taps, inner), the current one last

  // The convolution at position i of a window that starts at x.
  V at(const float *start, int64_t i, int64_t channel) const {
    V sum = load(bias + channel);
    for (int64_t back = std::min(i + 1, taps) - 1; back >= 0; --back)
      sum = fused(load(start + (i - back) * stride + channel),
                  load(taps_of + (taps - 1 - back) * inner + channel), sum);
    return sum;
  }
};

}  // namespace

extern "C" {

// Computes SiLU of the causal convolution of each window on its own.
void glam_convolve(const float *x, const float *taps_of, const float *bias, float *out,
                   int64_t batch, int64_t windows, int64_t window, int64_t inner, int64_t taps,
                   int64_t row_stride, int64_t stride, int64_t out_position, int64_t out_row,
                   int64_t out_window, int64_t threads) {
  const Windows w{batch,  windows,      window,  inner,      taps, row_stride,
                  stride, out_position, out_row, out_window, x,    taps_of,    bias};
  in_blocks(w.batch, 1, threads, [&](int64_t row, int64_t, Arena &) {
    for (int64_t start = 0; start < w.windows; ++start)
      for (int64_t i = 0; i < w.window; ++i) {
        float *to = out + i * w.out_position + row * w.out_row + start * w.out_window;
        const float *from = x + row * w.row_stride + start * w.stride;
        for (int64_t d = 0; d < w.inner; d += LANES) {
          const V v = w.at(from, i, d);
          store(to + d, v * sigmoid(v));
        }
      }
  });
}

// Computes the gradients of glam_convolve. `x_grad` is (batch, length, inner), `taps_grad` (taps + 1,
// inner), that of the bias last.
void glam_convolve_back(const float *x, const float *taps_of, const float *bias, const float *grad,
                        float *x_grad, float *taps_grad, int64_t batch, int64_t windows,
                        int64_t window, int64_t inner, int64_t taps, int64_t row_stride,
                        int64_t stride, int64_t out_position, int64_t out_row, int64_t out_window,
                        int64_t threads) {
  const Windows w{batch,  windows,      window,  inner,      taps, row_stride,
                  stride, out_position, out_row, out_window, x,    taps_of,    bias};
  const int64_t length = windows + window - 1;
  const int64_t count = (taps + 1) * inner, parts = parts_of(inner, CHANNELS);
  Numbers of_taps(w.batch * count);
  in_blocks(w.batch * parts, 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t row = task / parts, first = task % parts * CHANNELS;
    const int64_t end = std::min(inner, first + CHANNELS);
    float *sums = of_taps + row * count, *given = x_grad + row * length * inner;
    for (int64_t tap = 0; tap <= taps; ++tap)
      std::fill(sums + tap * inner + first, sums + tap * inner + end, 0.0f);
    for (int64_t t = 0; t < length; ++t)
      std::fill(given + t * inner + first, given + t * inner + end, 0.0f);
    for (int64_t start = 0; start < w.windows; ++start)
      for (int64_t i = 0; i < w.window; ++i) {
        const float *of_out = grad + i * w.out_position + row * w.out_row + start * w.out_window;
        const float *from = x + row * w.row_stride + start * w.stride;
        for (int64_t d = first; d < end; d += LANES) {
          const V g = load(of_out + d) * silu_slope(w.at(from, i, d));
          store(sums + taps * inner + d, load(sums + taps * inner + d) + g);
          for (int64_t back = std::min(i + 1, taps) - 1; back >= 0; --back) {
            const int64_t tap = (taps - 1 - back) * inner + d;
            float *to = given + (start + i - back) * inner + d;
            store(to, fused(g, load(taps_of + tap), load(to)));
            store(sums + tap, fused(g, load(from + (i - back) * w.stride + d), load(sums + tap)));
          }
        }
      }
  });
  add_parts(of_taps, w.batch, count, taps_grad);
}

// Computes softplus of `count` numbers, whole vectors.
void glam_softplus(const float *x, float *y, int64_t count, int64_t threads) {
  in_blocks(parts_of(count, NUMBERS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(count, (task + 1) * NUMBERS);
    for (int64_t i = task * NUMBERS; i < end; i += LANES) store(y + i, softplus(load(x + i)));
  });
}

// Computes the gradient of glam_softplus.
void glam_softplus_back(const float *x, const float *y_grad, float *x_grad, int64_t count,
                        int64_t threads) {
  in_blocks(parts_of(count, NUMBERS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(count, (task + 1) * NUMBERS);
    for (int64_t i = task * NUMBERS; i < end; i += LANES)
      store(x_grad + i, load(y_grad + i) * sigmoid(load(x + i)));
  });
}

// Computes (y + skip · x) · SiLU(z) of (batch, length, inner). Rows of z lie `z_stride` numbers
// apart, and its batch `z_batch`.
void glam_gate(const float *y, const float *x, const float *z, const float *skip, float *out,
               int64_t batch, int64_t length, int64_t inner, int64_t z_batch, int64_t z_stride,
               int64_t threads) {
  const int64_t rows = batch * length;
  in_blocks(parts_of(rows, ROWS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(rows, (task + 1) * ROWS);
    for (int64_t row = task * ROWS; row < end; ++row) {
      const float *gate = z + row / length * z_batch + row % length * z_stride;
      for (int64_t d = 0; d < inner; d += LANES) {
        const int64_t i = row * inner + d;
        const V v = load(gate + d);
        store(out + i, fused(load(skip + d), load(x + i), load(y + i)) * (v * sigmoid(v)));
      }
    }
  });
}

// Computes the gradients of glam_gate; `z_grad` has rows without gaps.
void glam_gate_back(const float *y, const float *x, const float *z, const float *skip,
                    const float *grad, float *y_grad, float *x_grad, float *z_grad,
                    float *skip_grad, int64_t batch, int64_t length, int64_t inner,
                    int64_t z_batch, int64_t z_stride, int64_t threads) {
  const int64_t rows = batch * length, tasks = parts_of(rows, ROWS);
  Numbers of_skip(tasks * inner);
  std::fill_n((float *)of_skip, tasks * inner, 0.0f);
  in_blocks(tasks, 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(rows, (task + 1) * ROWS);
    float *sums = of_skip + task * inner;
    for (int64_t row = task * ROWS; row < end; ++row) {
      const float *gate = z + row / length * z_batch + row % length * z_stride;
      for (int64_t d = 0; d < inner; d += LANES) {
        const int64_t i = row * inner + d;
        const V g = load(grad + i), input = load(x + i), v = load(gate + d), s = sigmoid(v);
        const V scale = load(skip + d), of_y = g * v * s;
        store(y_grad + i, of_y);
        store(x_grad + i, of_y * scale);
        store(sums + d, fused(of_y, input, load(sums + d)));
        store(z_grad + i, g * fused(scale, input, load(y + i)) *
                              (s * (splat(1.0f) + v * (splat(1.0f) - s))));
      }
    }
  });
  add_parts(of_skip, tasks, inner, skip_grad);
}

}  // extern "C"

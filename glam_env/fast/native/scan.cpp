// What Mamba computes along time, and its gradients: the selective scan, and the closed form over
// short windows.
//
// A lane is a channel. Tasks depend on the sizes alone, and sums over tasks run in order, so that
// the numbers do not depend on the number of threads.
//
// `inner` is whole vectors. `decay` is log2(e) · A, (size, inner). Rows of B and of C lie `stride`
// numbers apart.

#include "parts.h"
#include "threads.h"
#include "vectors.h"

#include <type_traits>

namespace {

using namespace kernels;

constexpr int64_t WINDOWS = 64;  // of a task
constexpr float LN_2 = 0.69314718f;

// 2^x for x <= 0, as all exponents are; NaN for NaN. Larger x count as at most 127.
inline V power(V x) { return exp2(smallest(splat(127.0f), x)); }

// Calls work(at, wide) for groups of at most two vectors that cover `channels`; `wide` is the
// group's vectors, known to the compiler.
template <class Work>
void by_vectors(int64_t channels, const Work &work) {
  int64_t at = 0;
  for (; at + 2 * LANES <= channels; at += 2 * LANES)
    work(at, std::integral_constant<int, 2>());
  for (; at < channels; at += LANES) work(at, std::integral_constant<int, 1>());
}

// Copies columns [first, first + channels) of (rows, inner) numbers.
void copy_columns(const float *from, int64_t rows, int64_t inner, int64_t first, int64_t channels,
                  float *to) {
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(to + row * channels, from + row * inner + first, channels * sizeof(float));
}

// --- the scan ----------------------------------------------------------------------------------

struct ScanSizes {
  int64_t batch, length, inner, size, stride;
};

// One position of some channels. `before` and `after` are states of rows `inner` apart.
template <bool FIRST>
void scan_position(const float *x, const float *dt, const float *decay, const float *b,
                   const float *c, const float *before, float *after, float *y, int64_t channels,
                   const ScanSizes &s) {
  by_vectors(channels, [&](int64_t at, auto wide) {
    constexpr int WIDE = wide;
    V step[WIDE], drive[WIDE], sum[WIDE];
    for (int v = 0; v < WIDE; ++v) {
      step[v] = load(dt + at + v * LANES);
      drive[v] = step[v] * load(x + at + v * LANES);
      sum[v] = splat(0.0f);
    }
    for (int64_t n = 0; n < s.size; ++n) {
      const V into = splat(b[n]), out = splat(c[n]);
      for (int v = 0; v < WIDE; ++v) {
        const int64_t i = at + v * LANES;
        V h = drive[v] * into;
        if constexpr (!FIRST)
          h = fused(power(step[v] * load(decay + n * channels + i)), load(before + n * s.inner + i),
                    h);
        store(after + n * s.inner + i, h);
        sum[v] = fused(out, h, sum[v]);
      }
    }
    for (int v = 0; v < WIDE; ++v) store(y + at + v * LANES, sum[v]);
  });
}

// The gradient of one position of some channels. `state_grad` comes with what later positions add
// to the gradient of this position's state, and leaves with what this one adds to the one before.
// Lanes of the gradients of B and C are added to `b_sums` and `c_sums`.
template <bool FIRST>
void scan_position_back(const float *x, const float *dt, const float *decay, const float *b,
                        const float *c, const float *before, const float *after,
                        const float *y_grad, float *state_grad, float *a_grad, float *b_sums,
                        float *c_sums, float *x_grad, float *dt_grad, int64_t channels,
                        const ScanSizes &s) {
  by_vectors(channels, [&](int64_t at, auto wide) {
    constexpr int WIDE = wide;
    V step[WIDE], drive[WIDE], given[WIDE], of_drive[WIDE], of_step[WIDE];
    for (int v = 0; v < WIDE; ++v) {
      step[v] = load(dt + at + v * LANES);
      drive[v] = step[v] * load(x + at + v * LANES);
      given[v] = load(y_grad + at + v * LANES);
      of_drive[v] = of_step[v] = splat(0.0f);
    }
    for (int64_t n = 0; n < s.size; ++n) {
      const V into = splat(b[n]), out = splat(c[n]);
      V of_b = load(b_sums + n * LANES), of_c = load(c_sums + n * LANES);
      for (int v = 0; v < WIDE; ++v) {
        const int64_t i = n * channels + at + v * LANES, j = n * s.inner + at + v * LANES;
        V g = fused(given[v], out, load(state_grad + i));
        of_c = fused(given[v], load(after + j), of_c);
        of_b = fused(drive[v], g, of_b);
        of_drive[v] = fused(g, into, of_drive[v]);
        if constexpr (!FIRST) {
          const V rate = load(decay + i);
          g *= power(step[v] * rate);
          store(state_grad + i, g);
          const V exponent = g * load(before + j);
          store(a_grad + i, fused(exponent, step[v], load(a_grad + i)));
          of_step[v] = fused(exponent, rate, of_step[v]);
        }
      }
      store(b_sums + n * LANES, of_b);
      store(c_sums + n * LANES, of_c);
    }
    for (int v = 0; v < WIDE; ++v) {
      const int64_t i = at + v * LANES;
      store(x_grad + i, of_drive[v] * step[v]);
      store(dt_grad + i, fused(of_drive[v], load(x + i), of_step[v] * splat(LN_2)));
    }
  });
}

// --- windows -----------------------------------------------------------------------------------

struct WindowSizes {
  int64_t window, rows, inner, size, stride, c_stride;
};

// Places of one window's numbers: position j lies `apart` numbers behind position j − 1.
struct Window {
  const float *x, *dt, *decay, *weight;  // `weight` is B · C, (window, size)
  int64_t apart, channels, window, size;
};

void read_window(const Window &w, float *y) {
  const int64_t last = w.window - 1;
  float now = 0.0f;
  for (int64_t n = 0; n < w.size; ++n) now += w.weight[last * w.size + n];
  by_vectors(w.channels, [&](int64_t at, auto wide) {
    constexpr int WIDE = wide;
    V sum[WIDE], span[WIDE];
    for (int v = 0; v < WIDE; ++v) {
      const int64_t i = last * w.apart + at + v * LANES;
      sum[v] = load(w.dt + i) * load(w.x + i) * splat(now);
      span[v] = load(w.dt + i);
    }
    for (int64_t j = last - 1; j >= 0; --j) {
      V left[WIDE];
      for (int v = 0; v < WIDE; ++v) left[v] = splat(0.0f);
      for (int64_t n = 0; n < w.size; ++n)
        for (int v = 0; v < WIDE; ++v)
          left[v] = fused(splat(w.weight[j * w.size + n]),
                          power(span[v] * load(w.decay + n * w.channels + at + v * LANES)), left[v]);
      for (int v = 0; v < WIDE; ++v) {
        const int64_t i = j * w.apart + at + v * LANES;
        sum[v] = fused(left[v], load(w.dt + i) * load(w.x + i), sum[v]);
        span[v] += load(w.dt + i);
      }
    }
    for (int v = 0; v < WIDE; ++v) store(y + at + v * LANES, sum[v]);
  });
}

// `spans` has room for two vectors for each position. Lanes of the gradient of `weight` are added
// to `weight_sums`.
void read_window_back(const Window &w, const float *y_grad, float *spans, float *a_grad,
                      float *weight_sums, float *x_grad, float *dt_grad) {
  const int64_t last = w.window - 1;
  float now = 0.0f;
  for (int64_t n = 0; n < w.size; ++n) now += w.weight[last * w.size + n];
  by_vectors(w.channels, [&](int64_t at, auto wide) {
    constexpr int WIDE = wide;
    V given[WIDE], earlier[WIDE];
    for (int v = 0; v < WIDE; ++v) {
      given[v] = load(y_grad + at + v * LANES);
      earlier[v] = splat(0.0f);
      V span = splat(0.0f);
      for (int64_t j = last; j > 0; --j) {
        span += load(w.dt + j * w.apart + at + v * LANES);
        store(spans + ((j - 1) * 2 + v) * LANES, span);
      }
    }
    for (int64_t j = 0; j <= last; ++j) {
      V step[WIDE], input[WIDE], driven[WIDE], left[WIDE], of_span[WIDE];
      for (int v = 0; v < WIDE; ++v) {
        const int64_t i = j * w.apart + at + v * LANES;
        step[v] = load(w.dt + i), input[v] = load(w.x + i);
        driven[v] = given[v] * step[v] * input[v];
        left[v] = of_span[v] = splat(0.0f);
      }
      float *sums = weight_sums + j * w.size * LANES;
      if (j == last) {  // the weights of this position share one gradient
        V sum = load(sums);
        for (int v = 0; v < WIDE; ++v) {
          sum += driven[v];
          left[v] = splat(now);
        }
        store(sums, sum);
      } else {
        V span[WIDE], longer[WIDE];
        for (int v = 0; v < WIDE; ++v) {
          span[v] = load(spans + (j * 2 + v) * LANES);
          longer[v] = driven[v] * span[v];
        }
        for (int64_t n = 0; n < w.size; ++n) {
          const V weight = splat(w.weight[j * w.size + n]);
          V sum = load(sums + n * LANES);
          for (int v = 0; v < WIDE; ++v) {
            const int64_t i = n * w.channels + at + v * LANES;
            const V rate = load(w.decay + i), kept = power(span[v] * rate), part = kept * weight;
            sum = fused(kept, driven[v], sum);
            left[v] += part;
            of_span[v] = fused(part, rate, of_span[v]);
            store(a_grad + i, fused(part, longer[v], load(a_grad + i)));
          }
          store(sums + n * LANES, sum);
        }
      }
      for (int v = 0; v < WIDE; ++v) {
        const int64_t i = j * w.apart + at + v * LANES;
        const V of_drive = given[v] * left[v];
        store(x_grad + i, of_drive * step[v]);
        store(dt_grad + i, fused(of_drive, input[v], earlier[v]));
        earlier[v] += of_span[v] * driven[v] * splat(LN_2);
      }
    }
  });
}

// Writes B · C of a window.
void weigh(const float *b, const float *c, int64_t apart, const WindowSizes &s, float *weight) {
  for (int64_t j = 0; j < s.window; ++j)
    for (int64_t n = 0; n < s.size; ++n) weight[j * s.size + n] = b[j * apart + n] * c[n];
}

}  // namespace

extern "C" {

// Computes the scan: y (batch, length, inner) and the states (batch, length, size, inner) of x and
// dt (batch, length, inner) and B and C (batch, length, size).
void glam_scan(const float *x, const float *dt, const float *decay, const float *b, const float *c,
               float *states, float *y, int64_t batch, int64_t length, int64_t inner, int64_t size,
               int64_t stride, int64_t threads) {
  const ScanSizes s{batch, length, inner, size, stride};
  const int64_t parts = parts_of(inner, CHANNELS);
  in_blocks(batch * parts, 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t row = task / parts, first = task % parts * CHANNELS;
    const int64_t channels = std::min(inner - first, CHANNELS);
    float *rates = arena.take(size * channels);
    copy_columns(decay, size, inner, first, channels, rates);
    for (int64_t t = 0; t < length; ++t) {
      const int64_t at = row * length + t, i = at * inner + first;
      float *after = states + at * size * inner + first;
      const auto advance = t ? scan_position<false> : scan_position<true>;
      advance(x + i, dt + i, rates, b + at * stride, c + at * stride, after - size * inner, after,
              y + i, channels, s);
    }
  });
}

// Computes the gradients of glam_scan from that of y. `a_grad` is (size, inner), with respect to A;
// those of B and C are (batch, length, size).
void glam_scan_back(const float *x, const float *dt, const float *decay, const float *b,
                    const float *c, const float *states, const float *y_grad, float *x_grad,
                    float *dt_grad, float *a_grad, float *b_grad, float *c_grad, int64_t batch,
                    int64_t length, int64_t inner, int64_t size, int64_t stride, int64_t threads) {
  const ScanSizes s{batch, length, inner, size, stride};
  const int64_t parts = parts_of(inner, CHANNELS), rows = batch * length * size;
  Numbers of_a(batch * size * inner), of_b(parts * rows), of_c(parts * rows);
  in_blocks(batch * parts, 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t row = task / parts, part = task % parts, first = part * CHANNELS;
    const int64_t channels = std::min(inner - first, CHANNELS), count = size * channels;
    float *rates = arena.take(count), *state_grad = arena.take(count), *sums = arena.take(count);
    float *b_sums = arena.take(size * LANES), *c_sums = arena.take(size * LANES);
    copy_columns(decay, size, inner, first, channels, rates);
    std::fill_n(state_grad, count, 0.0f);
    std::fill_n(sums, count, 0.0f);
    for (int64_t t = length - 1; t >= 0; --t) {
      const int64_t at = row * length + t, i = at * inner + first;
      const float *after = states + at * size * inner + first;
      std::fill_n(b_sums, size * LANES, 0.0f);
      std::fill_n(c_sums, size * LANES, 0.0f);
      const auto back = t ? scan_position_back<false> : scan_position_back<true>;
      back(x + i, dt + i, rates, b + at * stride, c + at * stride, after - size * inner, after,
           y_grad + i, state_grad, sums, b_sums, c_sums, x_grad + i, dt_grad + i, channels, s);
      for (int64_t n = 0; n < size; ++n) {
        of_b[part * rows + at * size + n] = total(load(b_sums + n * LANES));
        of_c[part * rows + at * size + n] = total(load(c_sums + n * LANES));
      }
    }
    for (int64_t n = 0; n < size; ++n)
      std::memcpy(of_a + (row * size + n) * inner + first, sums + n * channels,
                  channels * sizeof(float));
  });
  add_parts(of_a, batch, size * inner, a_grad);
  add_parts(of_b, parts, rows, b_grad);
  add_parts(of_c, parts, rows, c_grad);
}

// Computes the last y (rows, inner) of windows from x and dt (window, rows, inner), B (window, rows,
// size), and C (rows, size), whose rows lie `c_stride` numbers apart.
void glam_windows(const float *x, const float *dt, const float *decay, const float *b,
                  const float *c, float *y, int64_t window, int64_t rows, int64_t inner,
                  int64_t size, int64_t stride, int64_t c_stride, int64_t threads) {
  const WindowSizes s{window, rows, inner, size, stride, c_stride};
  in_blocks(parts_of(rows, WINDOWS), 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t end = std::min(rows, (task + 1) * WINDOWS);
    float *rates = arena.take(size * CHANNELS), *weight = arena.take(window * size);
    for (int64_t first = 0; first < inner; first += CHANNELS) {
      const int64_t channels = std::min(inner - first, CHANNELS);
      copy_columns(decay, size, inner, first, channels, rates);
      for (int64_t row = task * WINDOWS; row < end; ++row) {
        const int64_t i = row * inner + first;
        weigh(b + row * stride, c + row * c_stride, rows * stride, s, weight);
        read_window({x + i, dt + i, rates, weight, rows * inner, channels, window, size}, y + i);
      }
    }
  });
}

// Computes the gradients of glam_windows from that of y. `a_grad` is (size, inner), with respect to
// A; those of B and C are (window, rows, size) and (rows, size).
void glam_windows_back(const float *x, const float *dt, const float *decay, const float *b,
                       const float *c, const float *y_grad, float *x_grad, float *dt_grad,
                       float *a_grad, float *b_grad, float *c_grad, int64_t window, int64_t rows,
                       int64_t inner, int64_t size, int64_t stride, int64_t c_stride,
                       int64_t threads) {
  const WindowSizes s{window, rows, inner, size, stride, c_stride};
  const int64_t tasks = parts_of(rows, WINDOWS), count = window * size;
  Numbers of_a(tasks * size * inner);
  in_blocks(tasks, 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t begin = task * WINDOWS, end = std::min(rows, begin + WINDOWS);
    float *rates = arena.take(size * CHANNELS), *sums = arena.take(size * CHANNELS);
    float *weight = arena.take(count), *spans = arena.take(window * 2 * LANES);
    float *weight_sums = arena.take(count * LANES);
    float *of_weight = arena.take((end - begin) * count);
    std::fill_n(of_weight, (end - begin) * count, 0.0f);
    for (int64_t first = 0; first < inner; first += CHANNELS) {
      const int64_t channels = std::min(inner - first, CHANNELS);
      copy_columns(decay, size, inner, first, channels, rates);
      std::fill_n(sums, size * channels, 0.0f);
      for (int64_t row = begin; row < end; ++row) {
        const int64_t i = row * inner + first;
        weigh(b + row * stride, c + row * c_stride, rows * stride, s, weight);
        std::fill_n(weight_sums, count * LANES, 0.0f);
        read_window_back({x + i, dt + i, rates, weight, rows * inner, channels, window, size},
                         y_grad + i, spans, sums, weight_sums, x_grad + i, dt_grad + i);
        float *to = of_weight + (row - begin) * count;
        for (int64_t j = 0; j < count - size; ++j) to[j] += total(load(weight_sums + j * LANES));
        const float now = total(load(weight_sums + (count - size) * LANES));
        for (int64_t j = count - size; j < count; ++j) to[j] += now;
      }
      for (int64_t n = 0; n < size; ++n)
        std::memcpy(of_a + (task * size + n) * inner + first, sums + n * channels,
                    channels * sizeof(float));
    }
    for (int64_t row = begin; row < end; ++row) {
      float *of_c = c_grad + row * size;
      std::fill_n(of_c, size, 0.0f);
      for (int64_t j = 0; j < window; ++j)
        for (int64_t n = 0; n < size; ++n) {
          const float given = of_weight[(row - begin) * count + j * size + n];
          b_grad[(j * rows + row) * size + n] = given * c[row * c_stride + n];
          of_c[n] += given * b[(j * rows + row) * stride + n];
        }
    }
  });
  add_parts(of_a, tasks, size * inner, a_grad);
}

}  // extern "C"

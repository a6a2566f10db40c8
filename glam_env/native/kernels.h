// Vectors, matrix products and threads: what step.cpp is written in.

#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace kernels {

#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, VECTORS = 2;
#else
constexpr int LANES = 4, VECTORS = 2;
#endif
constexpr int PANEL = VECTORS * LANES;

// Rows whose sums, with as many vectors of weights and an input, fit the registers. Few rows of many
// vectors load less than many rows of few.
constexpr int tile_rows(int vectors) { return vectors == 4 ? 6 : vectors == 3 ? 8 : VECTORS == 4 ? 12 : 6; }

typedef float V __attribute__((vector_size(LANES * 4)));
typedef int32_t Int __attribute__((vector_size(LANES * 4)));

inline V load(const float *from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
inline void store(float *to, V v) { std::memcpy(to, &v, sizeof v); }
inline V splat(float x) { return V{} + x; }
inline V largest(V a, V b) { return a > b ? a : b; }
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

// Polynomials: least largest relative error over the range, by iterated weighted least squares.

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

// 2^p of an exponent whose rounded value has been added to MAGIC.
inline V scaled(V p, V rounded) { return (V)((Int)p + ((Int)rounded << 23)); }

// 2^x for x <= 127; below 2^-126 it stays there.
inline V exp2(V x) {
  x = largest(x, splat(-126.0f));
  V rounded = x + splat(MAGIC);
  return scaled(exp2_fraction(x - (rounded - splat(MAGIC))), rounded);
}

inline V exp(V x) {
  x = x < splat(-87.0f) ? splat(-87.0f) : x > splat(88.0f) ? splat(88.0f) : x;
  V rounded = x * splat(1.44269504f) + splat(MAGIC), n = rounded - splat(MAGIC);
  // ln 2 in two parts, the first with few bits: n times it is exact.
  V rest = (x - n * splat(0.693359375f)) + n * splat(2.12194440e-4f);
  return scaled(exp2_fraction(rest * splat(1.44269504f)), rounded);
}

// log(1 + t) for t in [√½ − 1, √2 − 1].
inline V log_near_one(V t) {
  V p = splat(-0.08064726740121841f);
  p = p * t + splat(0.1291801780462265f);
  p = p * t + splat(-0.1307259052991867f);
  p = p * t + splat(0.14173436164855957f);
  p = p * t + splat(-0.16628915071487427f);
  p = p * t + splat(0.2000269591808319f);
  p = p * t + splat(-0.2500075101852417f);
  p = p * t + splat(0.3333331346511841f);
  p = p * t + splat(-0.4999999701976776f);
  return t + t * t * p;
}

// For normal positive x.
inline V log(V x) {
  Int bits = (Int)x - 0x3f3504f3;  // √½
  Int exponent = bits >> 23;
  V t = (V)((Int)x - (exponent << 23)) - splat(1.0f);
  V n = __builtin_convertvector(exponent, V);
  return n * splat(0.693359375f) + (log_near_one(t) - n * splat(2.12194440e-4f));
}

inline V silu(V x) { return x / (splat(1.0f) + exp(-x)); }

// log(1 + e^x)
inline V softplus(V x) {
  V t = exp(x > splat(0.0f) ? -x : x), u = splat(1.0f) + t;
  return largest(x, splat(0.0f)) + (log(u) + (t - (u - splat(1.0f))) / u);
}

// A linear layer: weight in panels of PANEL outputs, each (in, PANEL), the last of them narrower by
// whole vectors; bias (out) or null; out is a multiple of LANES.
struct Dense {
  const float *weight, *bias;
  int64_t in, out;
};

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
      for (int v = 0; v < WIDE; ++v) sums[row][v] += x * weights[v];
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
    for (int64_t row = 0; row < rows; row += ROWS)
      tile_of<ROWS, WIDE>(rows - row < ROWS ? rows - row : ROWS, a + row * stride, stride,
                          layer.weight + at * layer.in, layer.bias ? layer.bias + at : nullptr,
                          layer.in, c + row * layer.out + at, layer.out);
  } else if constexpr (WIDE > 1) {
    panel_of<WIDE - 1>(vectors, layer, at, a, stride, c, rows);
  }
}

// c (rows, out) = a (rows, in; rows `stride` apart) · weight + bias
inline void dense(const Dense &layer, const float *a, int64_t stride, float *c, int64_t rows) {
  for (int64_t at = 0; at < layer.out; at += PANEL) {
    const int64_t left = (layer.out - at) / LANES;
    panel_of<VECTORS>(left < VECTORS ? left : VECTORS, layer, at, a, stride, c, rows);
  }
}

// Scratch memory of a thread, which grows to what a block has needed.
class Arena {
 public:
  float *take(int64_t floats) {
    floats = (floats + 15) / 16 * 16;
    while (current_ < chunks_.size() && used_ + floats > chunks_[current_].size)
      ++current_, used_ = 0;
    if (current_ == chunks_.size()) {
      const int64_t size = floats > CHUNK ? floats : CHUNK;
      chunks_.push_back({std::unique_ptr<float[]>(new float[size + 16]), size});
    }
    const uintptr_t start = reinterpret_cast<uintptr_t>(chunks_[current_].floats.get());
    float *aligned = reinterpret_cast<float *>((start + 63) / 64 * 64) + used_;
    used_ += floats;
    return aligned;
  }
  void reset() { current_ = 0, used_ = 0; }

 private:
  static constexpr int64_t CHUNK = 1 << 16;
  struct Chunk {
    std::unique_ptr<float[]> floats;
    int64_t size;
  };
  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  int64_t used_ = 0;
};

// OpenMP's GOMP_parallel(function, data, threads, flags), PyTorch's own: its threads spin a while
// after their work, and others beside them would wait for the cores. Null where there is none.
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
inline Parallel &shared_threads() {
  static Parallel parallel = nullptr;
  return parallel;
}

// Whether all of `count` indices lie in [0, limit).
inline bool all_below(const int64_t *index, int64_t count, int64_t limit) {
  bool good = true;
  for (int64_t i = 0; i < count; ++i) good &= uint64_t(index[i]) < uint64_t(limit);
  return good;
}

// Calls work(first, count, arena) for runs of at most `block` rows that cover them all.
template <class Work>
void in_blocks(int64_t rows, int64_t block, int64_t threads, const Work &work) {
  if (rows <= 0) return;
  const int64_t share = (rows + threads - 1) / threads;
  const int64_t size = share < block ? share : block, blocks = (rows + size - 1) / size;
  std::atomic<int64_t> next{0};
  auto loop = [&] {
    static thread_local Arena arena;
    for (int64_t at = next++; at < blocks; at = next++) {
      const int64_t first = at * size;
      arena.reset();
      work(first, rows - first < size ? rows - first : size, arena);
    }
  };
  threads = threads < blocks ? threads : blocks;
  if (threads <= 1) return loop();
  if (const Parallel parallel = shared_threads())
    return parallel([](void *data) { (*static_cast<decltype(loop) *>(data))(); }, &loop,
                    unsigned(threads), 0);
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back(loop);
  loop();
  for (auto &other : others) other.join();
}

}  // namespace kernels

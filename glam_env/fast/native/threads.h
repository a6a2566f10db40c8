// Splits rows among threads, and gives each thread scratch memory.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace kernels {

// The scratch memory of a thread. It grows to the largest need of a block.
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

  // Memory for `count` rounded inputs, valid until the next call.
  int32_t *rounded(int64_t count) {
    if (count > most_) rounded_.reset(new int32_t[count + 16]), most_ = count;
    const uintptr_t start = reinterpret_cast<uintptr_t>(rounded_.get());
    return reinterpret_cast<int32_t *>((start + 63) / 64 * 64);
  }

 private:
  static constexpr int64_t CHUNK = 1 << 16;
  struct Chunk {
    std::unique_ptr<float[]> floats;
    int64_t size;
  };
  std::vector<Chunk> chunks_;
  size_t current_ = 0;
  int64_t used_ = 0;
  std::unique_ptr<int32_t[]> rounded_;
  int64_t most_ = 0;
};

// GOMP_parallel(function, data, threads, flags) of the OpenMP library that PyTorch uses, or null.
// Its threads spin for a while after their work, and other threads would have to wait for the
// cores.
typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);
inline Parallel &shared_threads() {
  static Parallel parallel = nullptr;
  return parallel;
}

// Returns whether all `count` indices lie in [0, limit).
inline bool all_below(const int64_t *index, int64_t count, int64_t limit) {
  bool good = true;
  for (int64_t i = 0; i < count; ++i) good &= uint64_t(index[i]) < uint64_t(limit);
  return good;
}

// While an object of this class lives, subnormal numbers are zeros in its thread. CPUs take a
// hundred times as long for them, and a decaying state passes through all of them.
class TinyIsZero {
#if defined(__SSE__)
 public:
  TinyIsZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // results, operands
  ~TinyIsZero() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#endif
};

// Calls work(first, count, arena) for runs of at most `block` rows that cover all rows.
template <class Work>
void in_blocks(int64_t rows, int64_t block, int64_t threads, const Work &work) {
  if (rows <= 0) return;
  const int64_t share = (rows + threads - 1) / threads;
  const int64_t size = share < block ? share : block, blocks = (rows + size - 1) / size;
  std::atomic<int64_t> next{0};
  auto loop = [&] {
    static thread_local Arena arena;
    const TinyIsZero tiny_is_zero;
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

// Work in parts of fixed sizes, and sums over the parts in order: the numbers then do not depend on
// the number of threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>

namespace kernels {

constexpr int64_t CHANNELS = 128;  // of a part: what a scan needs of them fits the fastest cache

inline int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Sums (parts, count) numbers over the parts.
inline void add_parts(const float *parts, int64_t number, int64_t count, float *sum) {
  std::memcpy(sum, parts, count * sizeof(float));
  for (int64_t part = 1; part < number; ++part)
    for (int64_t i = 0; i < count; ++i) sum[i] += parts[part * count + i];
}

// Memory for numbers of all parts, not initialised.
class Numbers {
 public:
  explicit Numbers(int64_t count) : floats_(new float[count]) {}
  operator float *() { return floats_.get(); }

 private:
  std::unique_ptr<float[]> floats_;
};

}  // namespace kernels

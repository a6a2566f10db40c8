// What a world model computes of its categorical latents: the KL of a prior with its gradient,
// entropies, draws, and products with one-hot vectors.
//
// A lane is a class, and `classes` is whole vectors; in products with one-hot vectors a lane is an
// output. No number is a sum over tasks, so that none depends on the number of threads.

#include "parts.h"
#include "rows.h"
#include "threads.h"
#include "vectors.h"

namespace {

using namespace kernels;

constexpr int64_t ROWS = 16;     // of a task
// Outputs of a task of one_hot and one_hot_back, and rows that one_hot_back adds at a time: with a
// categorical's part of the table these fit the first-level cache.
constexpr int64_t OUTPUTS = 64, CHUNK = 64;

// The natural logarithm of normal positive x; NaN for NaN.
inline V log_or_nan(V x) { return log(x) + (x - x); }

// Copies rows that lie `stride` numbers apart to rows `into` apart.
inline void copy_rows(const float *from, int64_t stride, int64_t rows, int64_t width, float *to,
                      int64_t into) {
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(to + row * into, from + row * stride, width * sizeof(float));
}

// Copies rows that lie `stride` numbers apart to columns; these rows lie `into` apart.
inline void transpose(const float *from, int64_t stride, int64_t rows, int64_t width, float *to,
                      int64_t into) {
  constexpr int64_t SIDE = 16;  // of a square, whose lines stay in the first-level cache
  for (int64_t top = 0; top < rows; top += SIDE)
    for (int64_t left = 0; left < width; left += SIDE)
      for (int64_t row = top; row < std::min(rows, top + SIDE); ++row)
        for (int64_t i = left; i < std::min(width, left + SIDE); ++i)
          to[i * into + row] = from[row * stride + i];
}

// to (width) += from
inline void add(const float *from, float *to, int64_t width) {
  for (int64_t i = 0; i < width; i += LANES) store(to + i, load(to + i) + load(from + i));
}

// Writes softmax(logits) of one categorical.
inline void softmax(const float *logits, int64_t classes, float *probs) {
  V highest = load(logits), sum = splat(0.0f);
  for (int64_t c = LANES; c < classes; c += LANES) highest = largest(highest, load(logits + c));
  highest = splat(largest_lane(highest));
  for (int64_t c = 0; c < classes; c += LANES) {
    const V p = exp(load(logits + c) - highest);
    store(probs + c, p);
    sum += p;
  }
  const V scale = splat(1.0f / total(sum));
  for (int64_t c = 0; c < classes; c += LANES) store(probs + c, load(probs + c) * scale);
}

}  // namespace

extern "C" {

// Computes KL(p ‖ q) and the entropy of q, (batch · length), of q = softmax(logits) with a uniform
// share; `grad`, unless null, is the gradient of the KL with respect to the logits, (batch · length,
// categoricals, classes). Rows of `target` lie `target_stride` numbers apart, and its batch
// `target_batch`. They are log p; or if `target_share` is not 0, logits of p, which has that uniform
// share.
void glam_kl(const float *target, const float *logits, float *kl, float *entropy, float *grad,
             int64_t batch, int64_t length, int64_t categoricals, int64_t classes,
             int64_t target_batch, int64_t target_stride, float share, float target_share,
             int64_t threads) {
  const int64_t rows = batch * length, width = categoricals * classes;
  in_blocks(parts_of(rows, ROWS), 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t end = std::min(rows, (task + 1) * ROWS);
    float *probs = arena.take(classes), *given = arena.take(classes);
    float *weighted = arena.take(classes);
    const V keep = splat(1.0f - share), uniform = splat(share / classes);
    const V target_keep = splat(1.0f - target_share);
    const V target_uniform = splat(target_share / classes);
    for (int64_t row = task * ROWS; row < end; ++row) {
      const float *of_row = target + row / length * target_batch + row % length * target_stride;
      V divergence = splat(0.0f), unsure = splat(0.0f);
      for (int64_t k = 0; k < width; k += classes) {
        const int64_t at = row * width + k;
        softmax(logits + at, classes, probs);
        if (target_share != 0.0f) softmax(of_row + k, classes, given);
        V both = splat(0.0f);
        for (int64_t c = 0; c < classes; c += LANES) {
          const V prob = load(probs + c), q = fused(prob, keep, uniform), log_q = log_or_nan(q);
          V p, log_p;
          if (target_share != 0.0f) {
            p = fused(load(given + c), target_keep, target_uniform);
            log_p = log_or_nan(p);
          } else {
            log_p = load(of_row + k + c);
            p = exp(log_p);
          }
          divergence = fused(p, log_p - log_q, divergence);
          unsure -= q * log_q;
          const V part = p / q * prob;
          store(weighted + c, part);
          both += part;
        }
        if (grad) {
          const V sum = splat(total(both)), scale = splat(share - 1.0f);
          for (int64_t c = 0; c < classes; c += LANES)
            store(grad + at + c, (load(weighted + c) - load(probs + c) * sum) * scale);
        }
      }
      kl[row] = total(divergence);
      entropy[row] = total(unsure);
    }
  });
}

// Computes the entropy (categoricals) of each categorical's log-probabilities.
void glam_entropy(const float *log_probs, float *entropy, int64_t categoricals, int64_t classes,
                  int64_t threads) {
  in_blocks(parts_of(categoricals, 32 * ROWS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(categoricals, (task + 1) * 32 * ROWS);
    for (int64_t k = task * 32 * ROWS; k < end; ++k) {
      V sum = splat(0.0f);
      for (int64_t c = 0; c < classes; c += LANES) {
        const V x = load(log_probs + k * classes + c);
        sum -= exp(x) * x;
      }
      entropy[k] = total(sum);
    }
  });
}

// Draws a class of each categorical from log-probabilities times `scale`: the one whose share of
// the sum holds a number in [0, 1). NaNs give the last class.
void glam_draw_classes(const float *log_probs, const float *draw, int64_t *codes,
                       int64_t categoricals, int64_t classes, float scale, int64_t threads) {
  in_blocks(parts_of(categoricals, 32 * ROWS), 1, threads, [&](int64_t task, int64_t, Arena &a) {
    const int64_t end = std::min(categoricals, (task + 1) * 32 * ROWS);
    float *weights = a.take(classes);
    for (int64_t k = task * 32 * ROWS; k < end; ++k) {
      const float *x = log_probs + k * classes;
      V highest = load(x);
      for (int64_t c = LANES; c < classes; c += LANES) highest = largest(highest, load(x + c));
      highest = splat(largest_lane(highest));
      for (int64_t c = 0; c < classes; c += LANES)
        store(weights + c, exp((load(x + c) - highest) * splat(scale)));
      float sum = 0.0f;
      for (int64_t c = 0; c < classes; ++c) weights[c] = sum += weights[c];
      const float threshold = draw[k] * sum;
      int64_t below = 0;
      for (int64_t c = 0; c < classes; ++c) below += !(weights[c] > threshold);
      codes[k] = std::min(below, classes - 1);
    }
  });
}

// Adds up rows of a table (categoricals · classes, outputs), one of each categorical's: `sums` is
// (rows, outputs). The table's rows lie `stride` numbers apart; or if it is transposed, as the
// weights of a layer are, its columns. Returns 0; or 1, and does nothing, if a code is out of range.
int64_t glam_one_hot(const float *table, const int64_t *codes, float *sums, int64_t rows,
                     int64_t categoricals, int64_t classes, int64_t outputs, int64_t stride,
                     int64_t transposed, int64_t threads) {
  if (!all_below(codes, rows * categoricals, classes)) return 1;
  // A copy of some columns fits the second-level cache, which pays if their rows are read often.
  const bool copied = transposed || rows > 2 * classes;
  in_blocks(parts_of(outputs, OUTPUTS), 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t at = task * OUTPUTS, width = std::min(outputs - at, OUTPUTS);
    const int64_t entries = categoricals * classes;
    const float *columns = table + at;
    if (copied) {
      float *own = arena.take(entries * width);
      if (transposed) transpose(table + at * stride, stride, width, entries, own, width);
      else copy_rows(columns, stride, entries, width, own, width);
      columns = own;
    }
    for (int64_t row = 0; row < rows; ++row)
      sum_rows(columns, copied ? width : stride, codes + row * categoricals, categoricals, classes,
               nullptr, sums + row * outputs + at, width);
  });
  return 0;
}

// Computes the gradient of glam_one_hot with respect to the table, which lies like the table.
// Returns the same.
int64_t glam_one_hot_back(const float *grad, const int64_t *codes, float *table_grad, int64_t rows,
                          int64_t categoricals, int64_t classes, int64_t outputs, int64_t stride,
                          int64_t transposed, int64_t threads) {
  if (!all_below(codes, rows * categoricals, classes)) return 1;
  in_blocks(parts_of(outputs, OUTPUTS), 1, threads, [&](int64_t task, int64_t, Arena &arena) {
    const int64_t at = task * OUTPUTS, width = std::min(outputs - at, OUTPUTS);
    const int64_t entries = categoricals * classes;
    float *added = arena.take(entries * width), *own = arena.take(CHUNK * width);
    std::fill_n(added, entries * width, 0.0f);
    for (int64_t first = 0; first < rows; first += CHUNK) {
      const int64_t count = std::min(rows - first, CHUNK);
      copy_rows(grad + first * outputs + at, outputs, count, width, own, width);
      for (int64_t k = 0; k < categoricals; ++k)
        for (int64_t row = 0; row < count; ++row)
          add(own + row * width,
              added + (k * classes + codes[(first + row) * categoricals + k]) * width, width);
    }
    if (transposed) transpose(added, width, entries, width, table_grad + at * stride, stride);
    else copy_rows(added, width, entries, width, table_grad + at, stride);
  });
  return 0;
}

}  // extern "C"

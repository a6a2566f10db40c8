// What a world model computes of its categorical latents: the KL of a prior with its gradient,
// entropies, draws, and products with one-hot vectors.
//
// A lane is a class, and `classes` is whole vectors; in products with one-hot vectors a lane is an
// output. No number is a sum over tasks, so that none depends on the number of threads.

#include "parts.h"
#include "threads.h"
#include "vectors.h"

namespace {

using namespace kernels;

constexpr int64_t ROWS = 16;     // of a task
constexpr int64_t OUTPUTS = 64;  // of a task of one_hot_back

// The natural logarithm of normal positive x; NaN for NaN.
inline V log_or_nan(V x) { return log(x) + (x - x); }

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
// (rows, outputs). Returns 0; or 1, and does nothing, if a code is out of range.
int64_t glam_one_hot(const float *table, const int64_t *codes, float *sums, int64_t rows,
                     int64_t categoricals, int64_t classes, int64_t outputs, int64_t threads) {
  if (!all_below(codes, rows * categoricals, classes)) return 1;
  in_blocks(parts_of(rows, ROWS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t end = std::min(rows, (task + 1) * ROWS);
    for (int64_t row = task * ROWS; row < end; ++row) {
      float *to = sums + row * outputs;
      std::fill_n(to, outputs, 0.0f);
      for (int64_t k = 0; k < categoricals; ++k) {
        const float *from = table + (k * classes + codes[row * categoricals + k]) * outputs;
        for (int64_t d = 0; d < outputs; d += LANES) store(to + d, load(to + d) + load(from + d));
      }
    }
  });
  return 0;
}

// Computes the gradient of glam_one_hot with respect to the table. Returns the same.
int64_t glam_one_hot_back(const float *grad, const int64_t *codes, float *table_grad, int64_t rows,
                          int64_t categoricals, int64_t classes, int64_t outputs,
                          int64_t threads) {
  if (!all_below(codes, rows * categoricals, classes)) return 1;
  in_blocks(parts_of(outputs, OUTPUTS), 1, threads, [&](int64_t task, int64_t, Arena &) {
    const int64_t first = task * OUTPUTS, end = std::min(outputs, first + OUTPUTS);
    for (int64_t row = 0; row < categoricals * classes; ++row)
      std::fill(table_grad + row * outputs + first, table_grad + row * outputs + end, 0.0f);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t k = 0; k < categoricals; ++k) {
        float *to = table_grad + (k * classes + codes[row * categoricals + k]) * outputs;
        for (int64_t d = first; d < end; d += LANES)
          store(to + d, load(to + d) + load(grad + row * outputs + d));
      }
  });
  return 0;
}

}  // extern "C"

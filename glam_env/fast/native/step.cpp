// One step of many dreams on a CPU: the arithmetic of fast/step.py (TorchStepper), for a block of
// rows at a time, so that all intermediate numbers stay in the caches of a core.
//
// The numbers of a row depend neither on other rows, nor on their count, nor on the threads: every
// sum has one order. The channels of the state are innermost: conv (rows, taps − 1, inner), ssm
// (rows, size, inner).

#include "products.h"
#include "rows.h"

namespace {

using namespace kernels;

constexpr int64_t BLOCK = 64;  // rows in one pass over the weights
constexpr int64_t WINDOW_NUMBERS = 1024;  // largest window · size
constexpr float EPSILON = 1e-5f;  // of LayerNorm

// LayerNorm of x (width) to y; scale and shift may be null.
template <bool RELU>
void normalise(const float *x, float *y, int64_t width, const float *scale, const float *shift) {
  V sum = splat(0.0f);
  for (int64_t i = 0; i < width; i += LANES) sum += load(x + i);
  V mean = splat(total(sum) / float(width)), square = splat(0.0f);
  for (int64_t i = 0; i < width; i += LANES) {
    V d = load(x + i) - mean;
    square += d * d;
  }
  V factor = splat(1.0f / std::sqrt(total(square) / float(width) + EPSILON));
  for (int64_t i = 0; i < width; i += LANES) {
    V v = (load(x + i) - mean) * factor;
    if (scale) v = v * load(scale + i) + load(shift + i);
    store(y + i, RELU ? largest(v, splat(0.0f)) : v);
  }
}

// Computes the features e (rows, embed.outputs) of codes and actions.
void embed(const Model &m, const Rows &r, int64_t first, int64_t rows, Arena &arena, float *e) {
  const int64_t width = m.embed_width;
  float *x = arena.take(rows * width);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t *code = r.code + (first + row) * m.categoricals;
    float *sum = x + row * width;
    const float *action = m.table + (m.categoricals * m.classes + r.action[first + row]) * width;
    sum_rows(m.table, width, code, m.categoricals, m.classes, action, sum, width);
    normalise<true>(sum, sum, width, m.embed_scale, m.embed_shift);
  }
  dense(m.embed, x, width, e, rows, arena);
}

// Computes the products B_j ⊙ C (count, size); returns the sum of the last row.
float weigh_window(const Model &m, const Scan &s, const float *chosen, const float *c,
                   int64_t count, float *weight) {
  float now = 0.0f;
  for (int64_t j = 0; j < count; ++j)
    for (int64_t n = 0; n < m.size; ++n)
      weight[j * m.size + n] = chosen[j * s.select.outputs + m.rank + n] * c[n];
  for (int64_t n = 0; n < m.size; ++n) now += weight[(count - 1) * m.size + n];
  return now;
}

// Computes y (inner), with the skip, for the last of `count` inputs. dt is after the softplus; c is
// C of the last input.
void read_window(const Model &m, const Scan &s, const float *x, const float *dt,
                 const float *chosen, const float *c, int64_t count, float *y) {
  const int64_t last = count - 1;
  float weight[WINDOW_NUMBERS];
  const float now = weigh_window(m, s, chosen, c, count, weight);
  for (int64_t i = 0; i < m.inner; i += LANES) {
    V input = load(x + last * m.inner + i);
    V sum = load(dt + last * s.dt.outputs + i) * input * splat(now) + input * load(s.skip + i);
    V span = splat(0.0f);
    for (int64_t j = last - 1; j >= 0; --j) {
      span += load(dt + (j + 1) * s.dt.outputs + i);
      V kernel = splat(0.0f);
      for (int64_t n = 0; n < m.size; ++n)
        kernel += exp2(span * load(s.decay + n * m.inner + i)) * splat(weight[j * m.size + n]);
      sum += load(dt + j * s.dt.outputs + i) * load(x + j * m.inner + i) * kernel;
    }
    store(y + i, sum);
  }
}

#if defined(__AVX512FP16__)

// The same with the decays, and their sums over the state, in float16.
void read_window_in_halves(const Model &m, const Scan &s, const float *x, const float *dt,
                           const float *chosen, const float *c, int64_t count, float *y) {
  const int64_t last = count - 1, inner = m.inner;
  const Half *decay = static_cast<const Half *>(s.half_decay);
  float weight[WINDOW_NUMBERS];
  H spread[WINDOW_NUMBERS];
  const float now = weigh_window(m, s, chosen, c, count, weight);
  for (int64_t k = 0; k < last * m.size; ++k) spread[k] = half(weight[k]);
  for (int64_t i = 0; i < inner; i += HALVES) {
    V sums[2], spans[2] = {splat(0.0f), splat(0.0f)};
    for (int part = 0; part < 2; ++part) {
      const int64_t at = i + part * LANES;
      const V input = load(x + last * inner + at);
      sums[part] =
          load(dt + last * s.dt.outputs + at) * input * splat(now) + input * load(s.skip + at);
    }
    for (int64_t j = last - 1; j >= 0; --j) {
      for (int part = 0; part < 2; ++part)
        spans[part] += load(dt + (j + 1) * s.dt.outputs + i + part * LANES);
      const H span = narrowed(spans[0], spans[1]);
      H kernel = {};
      for (int64_t n = 0; n < m.size; ++n)
        kernel += exp2(span * load(decay + n * inner + i)) * spread[j * m.size + n];
      const V kernels[2] = {widened<0>(kernel), widened<1>(kernel)};
      for (int part = 0; part < 2; ++part) {
        const int64_t at = i + part * LANES;
        sums[part] += load(dt + j * s.dt.outputs + at) * load(x + j * inner + at) * kernels[part];
      }
    }
    for (int part = 0; part < 2; ++part) store(y + i + part * LANES, sums[part]);
  }
}

#else

void read_window_in_halves(const Model &, const Scan &, const float *, const float *, const float *,
                           const float *, int64_t, float *) {}

#endif

// Computes h' = exp(dt A) h + dt B x, and y = C h' + skip x (eqs. 1 to 3).
void recur(const Model &m, const Scan &s, const float *x, const float *dt, const float *b,
           const float *c, const float *ssm, float *new_ssm, float *y) {
  for (int64_t i = 0; i < m.inner; i += LANES) {
    V span = load(dt + i), input = load(x + i), drive = span * input;
    V sum = input * load(s.skip + i);
    for (int64_t n = 0; n < m.size; ++n) {
      const int64_t at = n * m.inner + i;
      V h = exp2(span * load(s.decay + at)) * load(ssm + at) + drive * splat(b[n]);
      store(new_ssm + at, h);
      sum += h * splat(c[n]);
    }
    store(y + i, sum);
  }
}

// Computes low-rank dt and B (rows, select.outputs), and dt (rows, inner) after the softplus, from
// the convolved inputs x.
void select(const Scan &s, const float *x, int64_t inner, int64_t rows, float *chosen, float *dt,
            Arena &arena) {
  dense(s.select, x, inner, chosen, rows, arena);
  dense(s.dt, chosen, s.select.outputs, dt, rows, arena);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < inner; i += LANES)
      store(dt + row * s.dt.outputs + i, softplus(load(dt + row * s.dt.outputs + i)));
}

// Computes h (rows, width) and the core's state after (z, a). Returns whether all of h is finite.
bool observe(const Model &m, const Rows &r, int64_t first, int64_t rows, Arena &arena) {
  const int64_t width = m.width, inner = m.inner, behind = m.window - 1, past = m.taps - 1;
  float *e = arena.take(rows * m.embed.outputs);
  embed(m, r, first, rows, arena, e);

  // Inputs of the output projections, [gated y, base], of GMamba and LMamba.
  const int64_t joined = inner + width;
  float *bases[2] = {arena.take(rows * joined), arena.take(rows * joined)};
  float *normed = arena.take(rows * width), *projected[2];
  for (int64_t row = 0; row < rows; ++row) {
    const float *window = r.window + (first + row) * behind * width;
    float *next = r.new_window + (first + row) * behind * width;
    const float *feature = e + row * m.embed.outputs;
    for (int64_t i = 0; i < width; i += LANES) {
      V now = load(feature + i);
      store(bases[0] + row * joined + inner + i, now - load(window + (behind - 1) * width + i));
      store(bases[1] + row * joined + inner + i, now);
    }
    std::memmove(next, window + width, (behind - 1) * width * sizeof(float));
    std::memcpy(next + (behind - 1) * width, feature, width * sizeof(float));
  }
  for (int part = 0; part < 2; ++part) {
    for (int64_t row = 0; row < rows; ++row)
      normalise<false>(bases[part] + row * joined + inner, normed + row * width, width, nullptr,
                       nullptr);
    projected[part] = arena.take(rows * m.into[part].outputs);
    dense(m.into[part], normed, width, projected[part], rows, arena);
  }

  const Scan &global = m.scan[0];
  float *x = arena.take(rows * inner), *dt = arena.take(rows * global.dt.outputs);
  float *chosen = arena.take(rows * global.select.outputs);
  float *c = arena.take(rows * global.read.outputs);
  for (int64_t row = 0; row < rows; ++row) {
    const float *conv = r.conv + (first + row) * past * inner;
    float *next = r.new_conv + (first + row) * past * inner;
    const float *input = projected[0] + row * m.into[0].outputs;
    for (int64_t i = 0; i < inner; i += LANES) {
      V now = load(input + i), sum = load(global.bias + i);
      for (int64_t tap = 0; tap < past; ++tap)
        sum += load(conv + tap * inner + i) * load(global.taps + tap * inner + i);
      sum += now * load(global.taps + past * inner + i);
      for (int64_t tap = 1; tap < past; ++tap)
        store(next + (tap - 1) * inner + i, load(conv + tap * inner + i));
      if (past) store(next + (past - 1) * inner + i, now);
      store(x + row * inner + i, silu(sum));
    }
  }
  select(global, x, inner, rows, chosen, dt, arena);
  dense(global.read, x, inner, c, rows, arena);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = (first + row) * m.size * inner;
    recur(m, global, x + row * inner, dt + row * global.dt.outputs,
          chosen + row * global.select.outputs + m.rank, c + row * global.read.outputs, r.ssm + at,
          r.new_ssm + at, bases[0] + row * joined);
  }

  const Scan &local = m.scan[1];
  const int64_t together = 16, count = m.window;  // rows whose windows fit the first-level cache
  float *xs = arena.take(together * count * inner);
  float *chosens = arena.take(together * count * local.select.outputs);
  float *dts = arena.take(together * count * local.dt.outputs);
  float *reads = arena.take(together * local.read.outputs);
  for (int64_t begin = 0; begin < rows; begin += together) {
    const int64_t some = rows - begin < together ? rows - begin : together;
    for (int64_t row = begin; row < begin + some; ++row) {
      const float *kept = r.local + (first + row) * behind * inner;
      const float *input = projected[1] + row * m.into[1].outputs;
      float *next = r.new_local + (first + row) * behind * inner;
      for (int64_t j = 0; j < count; ++j) {
        float *to = xs + ((row - begin) * count + j) * inner;
        for (int64_t i = 0; i < inner; i += LANES) {
          V sum = load(local.bias + i);
          for (int64_t back = 0; back < m.taps && back <= j; ++back) {
            const float *from = j - back < behind ? kept + (j - back) * inner : input;
            sum += load(from + i) * load(local.taps + (past - back) * inner + i);
          }
          store(to + i, silu(sum));
        }
      }
      std::memmove(next, kept + inner, (behind - 1) * inner * sizeof(float));
      std::memcpy(next + (behind - 1) * inner, input, inner * sizeof(float));
    }
    select(local, xs, inner, some * count, chosens, dts, arena);
    dense(local.read, xs + behind * inner, count * inner, reads, some, arena);
    const auto read = local.half_decay ? read_window_in_halves : read_window;
    for (int64_t row = 0; row < some; ++row)
      read(m, local, xs + row * count * inner, dts + row * count * local.dt.outputs,
           chosens + row * count * local.select.outputs, reads + row * local.read.outputs, count,
           bases[1] + (begin + row) * joined);
  }

  float *after[2];
  for (int part = 0; part < 2; ++part) {
    for (int64_t row = 0; row < rows; ++row) {
      float *y = bases[part] + row * joined;
      const float *gate = projected[part] + row * m.into[part].outputs + inner;
      for (int64_t i = 0; i < inner; i += LANES) store(y + i, load(y + i) * silu(load(gate + i)));
    }
    after[part] = arena.take(rows * m.out[part].outputs);
    dense(m.out[part], bases[part], joined, after[part], rows, arena);
  }
  Int finite = splat(-1);
  for (int64_t row = 0; row < rows; ++row) {
    float *h = r.new_h + (first + row) * width, *u = after[0] + row * m.out[0].outputs;
    normalise<false>(u, u, width, m.variation_scale, m.variation_shift);
    for (int64_t i = 0; i < width; i += LANES) {
      const V v = silu(load(u + i)) + load(after[1] + row * m.out[1].outputs + i);
      finite &= v - v == splat(0.0f);
      store(h + i, v);
    }
  }
  return all_lanes(finite);
}

// Draws the next latents from the prior of h, and computes the prior's entropy. Returns whether all
// entropies are finite, as they are unless a logit is infinite or no number.
bool draw(const Model &m, const Rows &r, int64_t first, int64_t rows, Arena &arena) {
  const int64_t lanes = m.lanes_of_categoricals;
  float *logits = arena.take(rows * m.prior.outputs), *draws = arena.take(lanes);
  const float *h = r.new_h + first * m.width;
  if (m.prior_width) {
    const int64_t stride = m.prior_hidden.outputs;
    float *hidden = arena.take(rows * stride);
    dense(m.prior_hidden, h, m.width, hidden, rows, arena);
    for (int64_t row = 0; row < rows; ++row) {
      float *of_row = hidden + row * stride;
      normalise<true>(of_row, of_row, m.prior_width, m.prior_scale, m.prior_shift);
    }
    dense(m.prior, hidden, stride, logits, rows, arena);
  } else {
    dense(m.prior, h, m.width, logits, rows, arena);
  }
  const V kept = splat(1.0f - m.unimix), mixed = splat(m.unimix / float(m.classes));
  const V tiny = splat(1e-37f), least = splat(-87.0f);
  const V power = splat(std::fmin(1.0f / m.temperature, 1e37f));
  const bool likeliest = m.temperature == 0.0f;
  const bool powers = !likeliest && m.temperature != 0.25f && m.temperature != 0.5f &&
                      m.temperature != 1.0f;
  std::memset(draws, 0, lanes * sizeof(float));
  bool finite = true;
  for (int64_t row = 0; row < rows; ++row) {
    float *of_row = logits + row * m.prior.outputs, entropies = 0.0f;
    std::memcpy(draws, r.draw + (first + row) * m.categoricals, m.categoricals * sizeof(float));
    for (int64_t k = 0; k < lanes; k += LANES) {
      float *at = of_row + k;
      V highest = load(at), sum = splat(0.0f);
      for (int64_t c = 1; c < m.classes; ++c) highest = largest(highest, load(at + c * lanes));
      for (int64_t c = 0; c < m.classes; ++c) {
        V p = exp(load(at + c * lanes) - highest);
        sum += p;
        store(at + c * lanes, p);
      }
      const V factor = kept / sum;
      V entropy = splat(0.0f), reached = splat(0.0f), best = splat(-1.0f);
      Int chosen = splat(0);
      for (int64_t c = 0; c < m.classes; ++c) {
        V p = load(at + c * lanes) * factor + mixed;
        V log_p = log(largest(p, tiny));
        entropy -= p * log_p;
        if (likeliest || powers) {
          Int better = p > best;
          best = largest(p, best);
          chosen = better ? splat(int32_t(c)) : chosen;
          store(at + c * lanes, p);
          continue;
        }
        V square = p * p;
        if (m.temperature == 0.5f) p = square;
        else if (m.temperature == 0.25f) p = square * square;
        reached += p;
        store(at + c * lanes, reached);
      }
      if (powers) {  // of p / best, so that the likeliest class keeps weight 1
        chosen = splat(0);
        for (int64_t c = 0; c < m.classes; ++c) {
          const V p = largest(load(at + c * lanes) / best, tiny);
          const V log_weight = -largest(-log(p) * power, splat(0.0f));  // rounding may exceed 0
          reached += log_weight < least ? splat(0.0f) : exp(largest(log_weight, least));
          store(at + c * lanes, reached);
        }
      }
      if (!likeliest) {
        V threshold = load(draws + k) * reached;
        for (int64_t c = 0; c < m.classes - 1; ++c) chosen -= load(at + c * lanes) <= threshold;
      }
      int64_t *code = r.new_code + (first + row) * m.categoricals + k;
      for (int64_t i = 0; i < LANES && k + i < m.categoricals; ++i) {
        code[i] = chosen[i];
        entropies += entropy[i];
      }
    }
    if (r.entropy) r.entropy[first + row] = entropies;
    finite &= std::isfinite(entropies);
  }
  return finite;
}

// Computes reward and termination of the transitions that led to h. Returns whether all are finite.
bool outcome(const Model &m, const Rows &r, const float *h, int64_t first, int64_t rows,
             Arena &arena) {
  const int64_t width = m.width;
  float *x = arena.take(rows * m.heads.outputs), *logits = arena.take(rows * m.reward.outputs);
  float *middle[2] = {arena.take(rows * m.middle[0].outputs),
                      arena.take(rows * m.middle[1].outputs)};
  dense(m.heads, h + first * width, width, x, rows, arena);
  for (int part = 0; part < 2; ++part) {
    const int64_t at = part * width, stride = m.middle[part].outputs;
    for (int64_t row = 0; row < rows; ++row) {
      float *of_row = x + row * m.heads.outputs + at;
      normalise<true>(of_row, of_row, width, m.first_scale + at, m.first_shift + at);
    }
    dense(m.middle[part], x + at, m.heads.outputs, middle[part], rows, arena);
    for (int64_t row = 0; row < rows; ++row) {
      float *of_row = middle[part] + row * stride;
      normalise<true>(of_row, of_row, width, m.second_scale + at, m.second_shift + at);
    }
  }
  dense(m.reward, middle[0], m.middle[0].outputs, logits, rows, arena);
  bool finite = true;
  for (int64_t row = 0; row < rows; ++row) {
    float *of_row = logits + row * m.reward.outputs;
    if (r.reward_logits)
      std::memcpy(r.reward_logits + (first + row) * m.bins, of_row, m.bins * sizeof(float));
    V highest = load(of_row), sum = splat(0.0f), mean = splat(0.0f);
    for (int64_t i = LANES; i < m.reward.outputs; i += LANES)
      highest = largest(highest, load(of_row + i));
    highest = splat(largest_lane(highest));
    for (int64_t i = 0; i < m.reward.outputs; i += LANES) {
      V p = exp(load(of_row + i) - highest);
      sum += p;
      mean += p * load(m.bin_values + i);
    }
    const float value = total(mean) / total(sum);
    const float reward = m.expand ? std::copysign(std::expm1(std::fabs(value)), value) : value;
    V logit = splat(0.0f);
    for (int64_t i = 0; i < width; i += LANES)
      logit += load(middle[1] + row * m.middle[1].outputs + i) * load(m.termination + i);
    const float ending = total(logit) + m.termination[width];
    r.reward[first + row] = reward;
    r.termination_logit[first + row] = ending;
    finite &= std::isfinite(reward) && std::isfinite(ending);
  }
  return finite;
}

// Writes the features [one-hot codes, h] of states.
void write_features(const Model &m, const int64_t *code, const float *h, int64_t first,
                    int64_t rows, float *features) {
  const int64_t one_hot = m.categoricals * m.classes;
  for (int64_t row = first; row < first + rows; ++row) {
    float *to = features + row * (one_hot + m.width);
    std::memset(to, 0, one_hot * sizeof(float));
    for (int64_t k = 0; k < m.categoricals; ++k)
      to[k * m.classes + code[row * m.categoricals + k]] = 1.0f;
    std::memcpy(to + one_hot, h + row * m.width, m.width * sizeof(float));
  }
}

}  // namespace

extern "C" {

// The sizes that the layout of weights depends on: float32 and float16 numbers in a vector (0 if
// the CPU cannot multiply float16), and vectors in a panel.
void glam_vector_sizes(int64_t *lanes, int64_t *halves, int64_t *vectors) {
  *lanes = LANES, *halves = HALVES, *vectors = VECTORS;
}

// Takes GOMP_parallel of PyTorch's OpenMP, or null: then the library starts its own threads.
void glam_share_threads(void *parallel) {
  shared_threads() = reinterpret_cast<Parallel>(parallel);
}

// Steps all rows; computes rewards, terminations and features unless they are null. Returns 0; or
// 1, and does nothing, if a code or an action is out of range; or 2 if numbers are not finite.
int64_t glam_step(const Model *m, const Rows *r, int64_t rows, int64_t threads) {
  if (!all_below(r->code, rows * m->categoricals, m->classes)) return 1;
  if (!all_below(r->action, rows, m->actions)) return 1;
  std::atomic<bool> finite{true};
  in_blocks(rows, BLOCK, threads, [&](int64_t first, int64_t count, Arena &arena) {
    bool good = observe(*m, *r, first, count, arena);
    arena.reset();
    good &= draw(*m, *r, first, count, arena);
    if (r->reward) good &= outcome(*m, *r, r->new_h, first, count, arena);
    if (!good) finite = false;
    if (r->features) write_features(*m, r->new_code, r->new_h, first, count, r->features);
  });
  return finite ? 0 : 2;
}

// Copies rows of each part's `source` to rows of its `into`. Returns as glam_step.
int64_t glam_put(const Part *parts, int64_t count, const int64_t *sources, const int64_t *rows,
                 int64_t copies) {
  for (int64_t p = 0; p < count; ++p)
    if (!all_below(sources, copies, parts[p].source_rows) ||
        !all_below(rows, copies, parts[p].into_rows))
      return 1;
  for (int64_t p = 0; p < count; ++p) {
    const auto [source, into, source_rows, into_rows, bytes] = parts[p];
    for (int64_t i = 0; i < copies; ++i)
      std::memcpy(into + rows[i] * bytes, source + sources[i] * bytes, bytes);
  }
  return 0;
}

// Computes rewards and terminations of the transitions that led to r->h. Returns as glam_step.
int64_t glam_outcome(const Model *m, const Rows *r, int64_t rows, int64_t threads) {
  std::atomic<bool> finite{true};
  in_blocks(rows, BLOCK, threads, [&](int64_t first, int64_t count, Arena &arena) {
    if (!outcome(*m, *r, r->h, first, count, arena)) finite = false;
  });
  return finite ? 0 : 2;
}

// Computes the features of r->code and r->h. Returns as glam_step.
int64_t glam_features(const Model *m, const Rows *r, int64_t rows, int64_t threads) {
  if (!all_below(r->code, rows * m->categoricals, m->classes)) return 1;
  in_blocks(rows, BLOCK, threads,
            [&](int64_t first, int64_t count, Arena &) {
              write_features(*m, r->code, r->h, first, count, r->features);
            });
  return 0;
}

}  // extern "C"

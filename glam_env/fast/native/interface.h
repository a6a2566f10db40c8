// The structures that Python fills. bindings.py mirrors them, and interface.cpp reports them.

#pragma once

#include <cstdint>

namespace kernels {

// A linear layer. The weights lie in panels of as many outputs as `VECTORS` vectors hold, each
// (inputs, panel); the last panel is narrower by whole vectors. `outputs` is whole vectors. Weights
// are float32, or float16 if `half` is not 0.
struct Dense {
  const void *weight;
  const float *bias;  // (outputs), or null
  int64_t inputs, outputs, half;
};

// A Mamba between its projections.
struct Scan {
  const float *taps;  // (taps, inner), the last one for the current input
  const float *bias;  // (inner), of the convolution
  const float *decay;  // (size, inner), log2(e) · A
  const void *half_decay;  // the same in float16, or null
  const float *skip;  // (inner)
  Dense select, read, dt;  // to low-rank dt and B, to C, and from low-rank dt to dt
};

// All weights and sizes of a dream step.
struct Model {
  int64_t categoricals, classes, actions, width, inner, size, taps, window, rank, bins;
  int64_t lanes_of_categoricals;  // categoricals rounded up to whole vectors
  int64_t embed_width, prior_width;  // of hidden layers; the prior has none if prior_width is 0
  int64_t expand;  // whether bin_values are in symlog units
  float unimix, temperature;
  const float *table;  // (categoricals · classes + actions, embed_width)
  const float *embed_scale, *embed_shift;
  Dense embed;
  Dense into[2];  // of GMamba and LMamba, as all pairs
  Scan scan[2];
  Dense out[2];
  const float *variation_scale, *variation_shift;
  Dense prior_hidden;
  const float *prior_scale, *prior_shift;
  Dense prior;  // outputs class by class, each lanes_of_categoricals wide
  Dense heads;  // the first layers of reward and termination side by side
  const float *first_scale, *first_shift, *second_scale, *second_shift;  // (2, width)
  Dense middle[2];
  Dense reward;
  const float *bin_values;  // (reward.outputs), zeros behind the bins
  const float *termination;  // (width), then its bias
};

// Inputs and outputs of a step, a row for each dream. Each part of the new state may lie where the
// old one lies.
struct Rows {
  const int64_t *code, *action;
  const float *window, *conv, *ssm, *local, *draw, *h;
  int64_t *new_code;
  float *new_window, *new_conv, *new_ssm, *new_local, *new_h;
  // Each may be null. Features are those of the new code and h.
  float *reward, *reward_logits, *termination_logit, *entropy, *features;
};

// Rows of `bytes` bytes: where they are read and written, and how many there are.
struct Part {
  const char *source;
  char *into;
  int64_t source_rows, into_rows, bytes;
};

// A convolution of the decoder in 8-bit integers.
struct Layer {
  // (4 kinds, taps · inputs / 4, outputs, 4); last layer: (2 kinds, …, 16, 4)
  const int8_t *weight;
  // From sums to steps of the next map, (4 kinds, outputs); last layer: to levels, (2 kinds, 16)
  // and (16).
  const float *scale, *bias;
  int64_t inputs, outputs;
};

// A decoder in 8-bit integers.
struct Decoder {
  int64_t categoricals, classes;
  const int8_t *table;  // (categoricals · classes, 16 · channels)
  const float *table_scale, *table_bias;  // (16 · channels)
  Layer hidden[3], last;
  const uint8_t *background;  // (64, 17, 12), rows as the last layer writes them
};

}  // namespace kernels

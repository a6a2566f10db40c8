// Reports the structures of interface.h, so that bindings.py can compare its own with them.

#include "interface.h"

#include <cstddef>
#include <string>

namespace {

using namespace kernels;

struct Place {
  const char *name;
  size_t offset, size;
};

#define STRUCTURE(type) {#type, 0, sizeof(type)}
#define FIELD(type, name) {#type "." #name, offsetof(type, name), sizeof(type::name)}
const Place PLACES[] = {
    STRUCTURE(Dense), FIELD(Dense, weight), FIELD(Dense, bias), FIELD(Dense, inputs),
    FIELD(Dense, outputs), FIELD(Dense, half),
    STRUCTURE(Scan), FIELD(Scan, taps), FIELD(Scan, bias), FIELD(Scan, decay),
    FIELD(Scan, half_decay), FIELD(Scan, skip), FIELD(Scan, select), FIELD(Scan, read),
    FIELD(Scan, dt),
    STRUCTURE(Model), FIELD(Model, categoricals), FIELD(Model, classes), FIELD(Model, actions),
    FIELD(Model, width), FIELD(Model, inner), FIELD(Model, size), FIELD(Model, taps),
    FIELD(Model, window), FIELD(Model, rank), FIELD(Model, bins),
    FIELD(Model, lanes_of_categoricals), FIELD(Model, embed_width), FIELD(Model, prior_width),
    FIELD(Model, expand), FIELD(Model, unimix), FIELD(Model, temperature),
    FIELD(Model, table), FIELD(Model, embed_scale), FIELD(Model, embed_shift), FIELD(Model, embed),
    FIELD(Model, into), FIELD(Model, scan), FIELD(Model, out), FIELD(Model, variation_scale),
    FIELD(Model, variation_shift), FIELD(Model, prior_hidden), FIELD(Model, prior_scale),
    FIELD(Model, prior_shift), FIELD(Model, prior), FIELD(Model, heads),
    FIELD(Model, first_scale), FIELD(Model, first_shift), FIELD(Model, second_scale),
    FIELD(Model, second_shift), FIELD(Model, middle), FIELD(Model, reward),
    FIELD(Model, bin_values), FIELD(Model, termination),
    STRUCTURE(Rows), FIELD(Rows, code), FIELD(Rows, action), FIELD(Rows, window), FIELD(Rows, conv),
    FIELD(Rows, ssm), FIELD(Rows, local), FIELD(Rows, draw), FIELD(Rows, h), FIELD(Rows, new_code),
    FIELD(Rows, new_window), FIELD(Rows, new_conv), FIELD(Rows, new_ssm), FIELD(Rows, new_local),
    FIELD(Rows, new_h), FIELD(Rows, reward), FIELD(Rows, reward_logits),
    FIELD(Rows, termination_logit), FIELD(Rows, entropy), FIELD(Rows, features),
    STRUCTURE(Part), FIELD(Part, source), FIELD(Part, into), FIELD(Part, source_rows),
    FIELD(Part, into_rows), FIELD(Part, bytes),
    STRUCTURE(Layer), FIELD(Layer, weight), FIELD(Layer, scale), FIELD(Layer, bias),
    FIELD(Layer, inputs), FIELD(Layer, outputs),
    STRUCTURE(Decoder), FIELD(Decoder, categoricals), FIELD(Decoder, classes),
    FIELD(Decoder, table), FIELD(Decoder, table_scale), FIELD(Decoder, table_bias),
    FIELD(Decoder, hidden), FIELD(Decoder, last), FIELD(Decoder, background),
};

std::string described() {
  std::string lines;
  for (const Place &place : PLACES)
    lines.append(place.name).append(" ").append(std::to_string(place.offset)).append(" ")
        .append(std::to_string(place.size)).append("\n");
  return lines;
}

}  // namespace

extern "C" {

// A line for each structure and each field: its name, offset and size in bytes.
const char *glam_structures() {
  static const std::string lines = described();
  return lines.c_str();
}

}  // extern "C"

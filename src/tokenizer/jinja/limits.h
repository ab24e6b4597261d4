// What one template may cost. A chat template comes with a checkpoint and its input from a client, so neither is
// trusted.
#ifndef MOED_TOKENIZER_JINJA_LIMITS_H_
#define MOED_TOKENIZER_JINJA_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace moed::jinja {

struct Limits {
  // Size of the template's source. The longest templates in use are below 50 KB.
  size_t max_source_bytes = size_t{1} << 20;

  // Nesting of blocks, parentheses and operators in the source. Real templates stay below 30; a level of the parser
  // takes about 3 KB of stack.
  int max_nesting = 200;

  // Nesting of evaluation: expressions within expressions, macro calls within macros. Python stops at 1000 frames, of
  // which a macro call takes four; a level here takes up to 1 KB of stack.
  int max_call_depth = 1500;

  // Nesting of lists and dicts in the input and in what a template builds. JSON schemas stay below 50.
  int max_value_depth = 500;

  // Work of one rendering: one for each node evaluated, each element and each 64 bytes touched. Ten million are half a
  // second or less on a server's core; a conversation of 1000 messages takes well below a tenth of it.
  uint64_t max_steps = 10'000'000;

  // Bytes of all values that one rendering creates, freed or not.
  size_t max_value_bytes = size_t{256} << 20;

  // Bytes of the rendered text. A million tokens are about 4 MB.
  size_t max_output_bytes = size_t{64} << 20;
};

}  // namespace moed::jinja

#endif  // MOED_TOKENIZER_JINJA_LIMITS_H_

// What is fuzzed: everything that reads bytes which a stranger wrote. A target takes any bytes whatever and must come
// back, soon and within little memory; what it checks beyond that, it checks with MOED_CHECK.
#ifndef MOED_TESTS_FUZZ_TARGETS_H_
#define MOED_TESTS_FUZZ_TARGETS_H_

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>

namespace moed::fuzz {

// A safetensors file.
void SafetensorsHeader(std::string_view input);
// A GGUF file.
void GgufHeader(std::string_view input);
// A GGUF file as a whole model: configuration, weights, tokenizer, chat template.
void GgufModel(std::string_view input);
// A model's folder: config.json and, after a zero byte, model.safetensors. Weights are loaded.
void CheckpointFolder(std::string_view input);
// config.json and, after a zero byte, generation_config.json.
void ModelConfig(std::string_view input);
// tokenizer.json and, after a zero byte, a text to encode.
void TokenizerJson(std::string_view input);
// SentencePiece's tokenizer.model.
void TokenizerModel(std::string_view input);
// tokenizer_config.json and, after a zero byte, lines of tiktoken.model behind those of the single bytes.
void Tiktoken(std::string_view input);
// A text, to a tokenizer that is in order.
void TokenizerText(std::string_view input);
// A chat template and, after a zero byte, its input as JSON.
void ChatTemplate(std::string_view input);
// A step plan as another rank would send it.
void StepPlan(std::string_view input);
// A GenerateRequest and a ChatRequest as they come over the wire.
void Request(std::string_view input);

struct Target {
  std::string_view name;
  void (*run)(std::string_view input);
  // An input of n bytes may take `fixed_bytes` + `bytes_per_byte` * n of memory at a time.
  size_t bytes_per_byte;
  size_t fixed_bytes;
};
std::span<const Target> Targets();
// Null where there is none.
const Target* FindTarget(std::string_view name);

// Calls the target and checks how much time and memory it took.
void RunTarget(const Target& target, std::string_view input);

// The parts before and after the first zero byte.
inline std::pair<std::string_view, std::string_view> SplitInput(std::string_view input) {
  const size_t end = input.find('\0');
  if (end == std::string_view::npos) return {input, {}};
  return {input.substr(0, end), input.substr(end + 1)};
}

}  // namespace moed::fuzz

#endif  // MOED_TESTS_FUZZ_TARGETS_H_

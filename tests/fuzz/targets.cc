#include "tests/fuzz/targets.h"

#include <time.h>

#include "base/logging.h"
#include "tests/fuzz/allocation_watch.h"

namespace moed::fuzz {
namespace {

constexpr size_t kKiB = size_t{1} << 10, kMiB = size_t{1} << 20;

// A value of JSON is 16 bytes in memory, a member of an object 150, and may be 2 and 6 bytes of text; a metadata entry
// of GGUF is 200 and 13 of the file. Of a model's folder, a number of 4 bits becomes one of fp32 in the embedding and
// one in the head, and matrices are padded to panels of 16 outputs. What comes on top is the same for all inputs: a
// model's layers (4096 at most), a compiled expression, or what a template may make of little (jinja::Limits).
constexpr Target kTargets[] = {
    {"safetensors_header", SafetensorsHeader, 32, 64 * kKiB},
    {"gguf_header", GgufHeader, 32, 64 * kKiB},
    {"gguf_model", GgufModel, 128, 4 * kMiB},
    {"checkpoint_folder", CheckpointFolder, 128, 4 * kMiB},
    {"model_config", ModelConfig, 64, 4 * kMiB},
    {"tokenizer_json", TokenizerJson, 128, 4 * kMiB},
    {"tokenizer_model", TokenizerModel, 128, 4 * kMiB},
    {"tiktoken", Tiktoken, 128, 4 * kMiB},
    {"tokenizer_text", TokenizerText, 128, 4 * kMiB},
    {"chat_template", ChatTemplate, 128, 32 * kMiB},
    {"step_plan", StepPlan, 32, 64 * kKiB},
    {"request", Request, 64, kMiB},
};

// Without sanitizers it is about a second.
constexpr double kMostSeconds = 10.0;

// Of this thread's processor time, so that a busy machine makes no input slow.
double ThreadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

std::span<const Target> Targets() { return kTargets; }

const Target* FindTarget(std::string_view name) {
  for (const Target& target : kTargets) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

void RunTarget(const Target& target, std::string_view input) {
  const AllocationWatch watch;
  const double begin = ThreadSeconds();
  target.run(input);
  const double seconds = ThreadSeconds() - begin;
  MOED_CHECK(seconds <= kMostSeconds, "{} took {} s of processor time", target.name, seconds);
  const size_t allowed = target.fixed_bytes + target.bytes_per_byte * input.size();
  MOED_CHECK(watch.peak() <= allowed, "{} took {} bytes of memory for an input of {}; {} are allowed", target.name,
             watch.peak(), input.size(), allowed);
}

}  // namespace moed::fuzz

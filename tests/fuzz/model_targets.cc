#include <string>
#include <utility>
#include <vector>

#include "base/logging.h"
#include "base/thread_pool.h"
#include "cli/model_text.h"
#include "model/family.h"
#include "model/open_model.h"
#include "model/stored_format.h"
#include "model/weights.h"
#include "tests/fuzz/targets.h"
#include "tests/support/temp_dir.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace moed::fuzz {
namespace {

void CheckRefusal(const absl::Status& status) {
  MOED_CHECK(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) || absl::IsNotFound(status) ||
                 absl::IsResourceExhausted(status) || absl::IsDataLoss(status),
             "{}", status.ToString());
  MOED_CHECK(!Message(status).empty());
}

// Lists, configures and loads what lies at `path`, as floats and as it is stored.
void LoadModel(const std::string& path) {
  static ThreadPool* const threads = new ThreadPool(1);
  const ExecContext context{.threads = threads};
  for (const bool as_stored : {false, true}) {
    auto checkpoint = OpenModel(path);
    if (!checkpoint.ok()) return CheckRefusal(checkpoint.status());
    for (const TensorInfo& tensor : (*checkpoint)->List()) MOED_CHECK(!tensor.dtype_name.empty());
    const auto config = ReadModelConfig(**checkpoint);
    if (!config.ok()) return CheckRefusal(config.status());
    WeightPolicy policy{.dtype = DType::kF32, .as_stored = as_stored};
    if (as_stored) AddStoredFormats(*config, **checkpoint, &policy);
    const auto weights = ModelWeights::Load(*config, **checkpoint, policy, context, nullptr);
    if (!weights.ok()) {
      CheckRefusal(weights.status());
      continue;
    }
    MOED_CHECK(weights->num_bytes() >= ModelWeights::PlannedBytes(*config, policy));
    (*checkpoint)->UnusedTensors();
  }
}

}  // namespace

void GgufModel(std::string_view input) {
  static const testing::TempDir folder;
  const std::string path = folder.Write("model.gguf", input);
  LoadModel(path);
  const auto tokenizer = LoadTokenizer(path);
  if (tokenizer.ok()) {
    const auto ids = (*tokenizer)->Encode("ab c\xc3\xa9 12");
    MOED_CHECK(!ids.ok() || (*tokenizer)->Decode(*ids).ok());
  } else {
    CheckRefusal(tokenizer.status());
  }
  if (const auto chat = LoadChatTemplate(path); !chat.ok()) CheckRefusal(chat.status());
}

void CheckpointFolder(std::string_view input) {
  static const testing::TempDir folder;
  const auto [config, weights] = SplitInput(input);
  folder.Write("config.json", config);
  folder.Write("model.safetensors", weights);
  LoadModel(folder.path());
}

}  // namespace moed::fuzz

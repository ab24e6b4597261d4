// Results do not depend on company: on the CPU, and on a GPU where that is asked for, a request's tokens and
// log-probabilities are the same to the bit alone, in a batch, in chunks of any size, after preemption, and from a warm
// prefix cache.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <string>

#include "engine/moe_engine.h"
#include "scheduler/policy.h"
#include "scheduler/scheduler.h"
#include "tests/support/serve_all.h"
#include "tests/support/test_device.h"

namespace moed {
namespace {

using test::ServeAll;
using test::Served;

constexpr int32_t kVocab = 503;

// A small model with GQA, odd expert counts and a dense layer, whose weights are large enough that its tokens vary.
constexpr char kConfig[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 503, "hidden_size": 72,
  "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 24,
  "max_position_embeddings": 512, "num_experts": 7, "num_experts_per_tok": 3, "moe_intermediate_size": 40,
  "norm_topk_prob": true, "mlp_only_layers": [1], "decoder_sparse_step": 1, "tie_word_embeddings": false,
  "initializer_range": 0.25, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 0
})";

// Heads of 64, which have tensor cores' bodies on GPUs.
constexpr char kWideConfig[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 503, "hidden_size": 64,
  "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
  "max_position_embeddings": 512, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
  "norm_topk_prob": true, "tie_word_embeddings": false, "initializer_range": 0.25, "rms_norm_eps": 1e-6,
  "rope_theta": 10000.0, "eos_token_id": 0
})";

// Latent attention and DeepSeek-V3's router with groups, correction bias and a shared expert.
constexpr char kLatentConfig[] = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 503, "hidden_size": 72,
  "intermediate_size": 100, "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 5,
  "q_lora_rank": 41, "kv_lora_rank": 46, "qk_nope_head_dim": 20, "qk_rope_head_dim": 10, "v_head_dim": 19,
  "max_position_embeddings": 512, "n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3,
  "n_shared_experts": 1, "moe_intermediate_size": 40, "first_k_dense_replace": 1, "routed_scaling_factor": 2.5,
  "tie_word_embeddings": false, "initializer_range": 0.25, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
  "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 64, "mscale": 1.0,
                   "mscale_all_dim": 1.0},
  "eos_token_id": 0
})";

struct Variant {
  const char* name;
  const char* config;
  int32_t cached_elements;  // of one position in all layers
  DType dtype;
  DType kv_dtype;
  int threads;
  std::vector<WeightPolicy::Rule> weight_rules = {};
};

// All weights in one format.
std::vector<WeightPolicy::Rule> AllIn(kernels::WeightFormat format) {
  return WeightPolicy::Uniform(DType::kBF16, format).rules;
}

constexpr int32_t kElements = 3 * 2 * (24 + 24);  // layers, KV heads, K and V
constexpr int32_t kWideElements = 2 * 2 * (64 + 64);
constexpr int32_t kLatentElements = 3 * (46 + 10);  // layers, latent and rotary key

class CompanyTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) / ("company_" + std::string(GetParam().name));
    std::filesystem::create_directories(dir_);
    std::ofstream(dir_ / "config.json") << GetParam().config;
    std::mt19937 random(20);
    subject_.id = 1;
    for (int i = 0; i < 83; ++i) subject_.prompt_ids.push_back(static_cast<int32_t>(random() % kVocab));
    subject_.params.max_tokens = 48;
    subject_.params.seed = 11;
    subject_.params.temperature = 0.8f;
    subject_.params.top_p = 0.95f;
    subject_.params.logprobs = 0;
    subject_.params.repetition_penalty = 1.1f;
    for (int i = 0; i < 16; ++i) {
      Request& stranger = strangers_.emplace_back();
      stranger.id = 100 + i;
      const int length = 1 + static_cast<int>(random() % 120);
      for (int t = 0; t < length; ++t) stranger.prompt_ids.push_back(static_cast<int32_t>(random() % kVocab));
      stranger.params.max_tokens = 1 + static_cast<int32_t>(random() % 80);
      stranger.params.seed = i;
      stranger.params.ignore_eos = true;
    }
  }

  std::unique_ptr<MoeEngine> LoadEngine(int32_t kv_blocks = 400) {
    MoeEngineOptions options;
    options.device = test::DeviceUnderTest();
    options.batch_invariant = true;
    options.model_dir = dir_.string();
    options.load_format = LoadFormat::kDummy;
    options.dtype = GetParam().dtype;
    options.kv_cache_dtype = GetParam().kv_dtype;
    options.weight_rules = GetParam().weight_rules;
    options.num_threads = GetParam().threads;
    options.max_num_seqs = 32;
    constexpr uint64_t kBlockSize = 16;
    options.kv_cache_bytes = kBlockSize * GetParam().cached_elements * DTypeSize(GetParam().kv_dtype) * kv_blocks;
    auto engine = MoeEngine::Load(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return std::move(engine).value();
  }

  std::unique_ptr<Scheduler> NewScheduler(const Engine& engine, int32_t chunk = 0) {
    SchedulerOptions options;
    options.max_num_seqs = 32;
    options.max_prefill_chunk = chunk;
    auto scheduler = Scheduler::Create(options, engine.info(), MakeFcfsPolicy());
    EXPECT_TRUE(scheduler.ok()) << scheduler.status();
    return std::move(scheduler).value();
  }

  Served Alone() {
    auto engine = LoadEngine();
    auto scheduler = NewScheduler(*engine);
    return ServeAll(*engine, *scheduler, {subject_}).at(1);
  }

  std::vector<Request> WithStrangers() const {
    std::vector<Request> all = strangers_;
    all.insert(all.begin() + 8, subject_);
    return all;
  }

  std::filesystem::path dir_;
  Request subject_;
  std::vector<Request> strangers_;
};

TEST_P(CompanyTest, InABatchOfStrangers) {
  const Served alone = Alone();
  ASSERT_EQ(alone.tokens.size(), 48u);
  ASSERT_EQ(alone.logprobs.size(), 48u);
  EXPECT_GT(std::set(alone.tokens.begin(), alone.tokens.end()).size(), 10u) << "the test model repeats itself";
  auto engine = LoadEngine();
  auto scheduler = NewScheduler(*engine);
  EXPECT_EQ(ServeAll(*engine, *scheduler, WithStrangers()).at(1), alone);
}

TEST_P(CompanyTest, InChunks) {
  const Served alone = Alone();
  for (int32_t chunk : {1, 7, 64}) {
    auto engine = LoadEngine();
    auto scheduler = NewScheduler(*engine, chunk);
    EXPECT_EQ(ServeAll(*engine, *scheduler, {subject_}).at(1), alone) << "chunks of " << chunk;
    auto crowded = NewScheduler(*engine, chunk);
    EXPECT_EQ(ServeAll(*engine, *crowded, WithStrangers()).at(1), alone) << "chunks of " << chunk << ", strangers";
  }
}

TEST_P(CompanyTest, AfterPreemption) {
  const Served alone = Alone();
  auto engine = LoadEngine(/*kv_blocks=*/24);
  auto scheduler = NewScheduler(*engine);
  // The subject comes last, and FCFS takes blocks from whoever came last.
  std::vector<Request> all = strangers_;
  all.push_back(subject_);
  const auto served = ServeAll(*engine, *scheduler, all);
  EXPECT_GT(scheduler->stats().preemptions, 0);
  EXPECT_EQ(served.at(1), alone);
  auto roomy = LoadEngine();
  auto unpressed = NewScheduler(*roomy);
  EXPECT_EQ(ServeAll(*roomy, *unpressed, all), served);
}

TEST_P(CompanyTest, FromAWarmPrefixCache) {
  const Served alone = Alone();
  auto engine = LoadEngine();
  auto scheduler = NewScheduler(*engine);
  EXPECT_EQ(ServeAll(*engine, *scheduler, {subject_}).at(1), alone);
  Request again = subject_;
  again.id = 2;
  const Served warm = ServeAll(*engine, *scheduler, {again}).at(2);
  EXPECT_EQ(warm, alone);
  EXPECT_EQ(warm.stats.cached_tokens, 80);
  // Another tenant shares nothing.
  again.id = 3;
  again.tenant = "other";
  const Served other = ServeAll(*engine, *scheduler, {again}).at(3);
  EXPECT_EQ(other, alone);
  EXPECT_EQ(other.stats.cached_tokens, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, CompanyTest,
    testing::Values(
        Variant{"fp32", kConfig, kElements, DType::kF32, DType::kF32, 2},
        Variant{"bf16", kConfig, kElements, DType::kBF16, DType::kBF16, 2},
        Variant{"bf16_wide_heads", kWideConfig, kWideElements, DType::kBF16, DType::kBF16, 2},
        Variant{"bf16_kv_fp16", kConfig, kElements, DType::kBF16, DType::kF16, 3},
        // Integers, and floats that they are multiplied by: of keys and values, and of the latent.
        Variant{"kv_int8", kConfig, kElements + 3 * 2 * 2 * 4, DType::kBF16, DType::kI8, 2},
        Variant{"latent_kv_int8", kLatentConfig, kLatentElements + 3 * 4, DType::kBF16, DType::kI8, 3},
        Variant{"latent_fp32", kLatentConfig, kLatentElements, DType::kF32, DType::kF32, 2},
        Variant{"latent_bf16", kLatentConfig, kLatentElements, DType::kBF16, DType::kBF16, 3},
        Variant{"int8", kConfig, kElements, DType::kBF16, DType::kBF16, 2, AllIn(kernels::WeightFormat::Int8())},
        Variant{"int4", kConfig, kElements, DType::kF32, DType::kF32, 3, AllIn(kernels::WeightFormat::Int4(32))},
        Variant{"latent_int8", kLatentConfig, kLatentElements, DType::kBF16, DType::kBF16, 2,
                AllIn(kernels::WeightFormat::Int8(64))}),
    [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace moed

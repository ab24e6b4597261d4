// SentencePiece's tokenizer.model: models made here, so that every rule can be tried.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/status.h"
#include "sentencepiece_model.pb.h"
#include "tokenizer/detokenizer.h"
#include "tokenizer/tokenizer.h"

namespace moed {
namespace {

using sentencepiece::Model;
using Piece = Model::Piece;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

void AddPiece(Model* model, const std::string& text, float score, Piece::Type type = Piece::NORMAL) {
  Piece* piece = model->add_pieces();
  piece->set_piece(text);
  piece->set_score(score);
  piece->set_type(type);
}

// 0 <unk>, 1 <s>, 2 </s>, 3 ▁, 4 a, 5 b, 6 ▁a, 7 ab, 8 ba, 9 ▁▁, 10 aé ("é" alone is no piece), 11 <user>
Model SmallModel() {
  Model model;
  AddPiece(&model, "<unk>", 0, Piece::UNKNOWN);
  AddPiece(&model, "<s>", 0, Piece::CONTROL);
  AddPiece(&model, "</s>", 0, Piece::CONTROL);
  for (const char* text : {"▁", "a", "b"}) AddPiece(&model, text, -10);
  AddPiece(&model, "▁a", -2);
  AddPiece(&model, "ab", -1);
  AddPiece(&model, "ba", -1);
  AddPiece(&model, "▁▁", -3);
  AddPiece(&model, "aé", -4);
  AddPiece(&model, "<user>", 0, Piece::USER_DEFINED);
  model.mutable_trainer_spec()->set_model_type(sentencepiece::TrainerSpec::BPE);
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  return model;
}

std::unique_ptr<Tokenizer> Make(const Model& model, std::string_view config = "") {
  auto tokenizer = Tokenizer::FromSentencePiece(model.SerializeAsString(), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Plain(const Tokenizer& tokenizer, std::string_view text) {
  return *tokenizer.Encode(text, {.add_special_tokens = false, .parse_special = false});
}

TEST(SentencePieceTest, ScoresDecideAndTheLeftmostAmongEquals) {
  const auto tokenizer = Make(SmallModel());
  EXPECT_THAT(Plain(*tokenizer, ""), ElementsAre());
  EXPECT_THAT(Plain(*tokenizer, "a"), ElementsAre(6));          // ▁a
  EXPECT_THAT(Plain(*tokenizer, "ab"), ElementsAre(3, 7));      // ab is worth more than ▁a
  EXPECT_THAT(Plain(*tokenizer, "aba"), ElementsAre(3, 7, 4));  // ab and ba are worth the same
  EXPECT_THAT(Plain(*tokenizer, "bab"), ElementsAre(3, 8, 5));
  EXPECT_THAT(Plain(*tokenizer, "  a"), ElementsAre(9, 6));  // ▁▁ of the prefix and the first space
}

TEST(SentencePieceTest, AnUnknownCharacterCanBePartOfAPiece) {
  const auto tokenizer = Make(SmallModel());
  EXPECT_THAT(Plain(*tokenizer, "baé"), ElementsAre(3, 8, 0));  // ba first, é is left alone
  EXPECT_THAT(Plain(*tokenizer, "éaé"), ElementsAre(3, 0, 10));
  EXPECT_THAT(Plain(*tokenizer, "xyéz"), ElementsAre(3, 0)) << "neighbouring unknown characters are one";
}

TEST(SentencePieceTest, BytesStandForUnknownCharacters) {
  Model model = SmallModel();
  for (int byte = 0; byte < 256; ++byte) AddPiece(&model, fmt::format("<0x{:02X}>", byte), 0, Piece::BYTE);
  model.mutable_trainer_spec()->set_byte_fallback(true);
  const auto tokenizer = Make(model);
  EXPECT_THAT(Plain(*tokenizer, "é\n"), ElementsAre(3, 12 + 0xC3, 12 + 0xA9, 12 + 0x0A));
  EXPECT_EQ(*tokenizer->Decode(Plain(*tokenizer, "é\n")), "é\n");
  EXPECT_EQ(tokenizer->TokenBytes(12 + 0xC3), "\xC3");
}

TEST(SentencePieceTest, SpacesAsTheNormalizerSays) {
  Model model = SmallModel();
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(true);
  EXPECT_THAT(Plain(*Make(model), "  a   b "), ElementsAre(6, 3, 5));
  EXPECT_THAT(Plain(*Make(model), "   "), ElementsAre());
  model.mutable_normalizer_spec()->set_add_dummy_prefix(false);
  EXPECT_THAT(Plain(*Make(model), " ab"), ElementsAre(7));
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  EXPECT_THAT(Plain(*Make(model), " ab"), ElementsAre(3, 7));
  EXPECT_EQ(*Make(model)->Decode(std::vector<int32_t>{3, 7}), " ab") << "no prefix was put there";
}

TEST(SentencePieceTest, UserDefinedPiecesAreFoundAlwaysAndControlPiecesOnRequest) {
  const auto tokenizer = Make(SmallModel());
  EXPECT_THAT(Plain(*tokenizer, "a<user>b"), ElementsAre(6, 11, 5));
  EXPECT_THAT(*tokenizer->Encode("a</s>"), ElementsAre(1, 6, 2));
  EXPECT_THAT(Plain(*tokenizer, "</s>"), ElementsAre(3, 0));
  EXPECT_TRUE(tokenizer->IsSpecial(1));
  EXPECT_FALSE(tokenizer->IsSpecial(11));
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
}

TEST(SentencePieceTest, TheConfigurationDecidesOnBos) {
  EXPECT_THAT(*Make(SmallModel())->Encode("a"), ElementsAre(1, 6));
  EXPECT_THAT(*Make(SmallModel(), R"({"add_bos_token": false})")->Encode("a"), ElementsAre(6));
  EXPECT_THAT(*Make(SmallModel(), R"({"add_bos_token": true, "add_eos_token": true})")->Encode("a"),
              ElementsAre(1, 6, 2));
}

TEST(SentencePieceTest, DecodingDropsTheSpaceThatEncodingPut) {
  const auto tokenizer = Make(SmallModel());
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 6, 6, 2}), "a a");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{3, 3, 4}), " a");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{9, 4}), " a");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{5, 6}), "b a");
  EXPECT_EQ(*tokenizer->Decode(std::vector<int32_t>{1, 6}, {.skip_special_tokens = false}), "<s> a");
}

TEST(SentencePieceTest, WhatIsNotSupportedOrBroken) {
  struct Row {
    std::function<void(Model&)> damage;
    absl::StatusCode code;
    const char* message;
  };
  const Row rows[] = {
      {[](Model& m) { m.mutable_trainer_spec()->set_model_type(sentencepiece::TrainerSpec::UNIGRAM); },
       absl::StatusCode::kUnimplemented, "trainer_spec.model_type is UNIGRAM"},
      {[](Model& m) { m.mutable_trainer_spec()->set_treat_whitespace_as_suffix(true); },
       absl::StatusCode::kUnimplemented, "treat_whitespace_as_suffix"},
      {[](Model& m) {
         m.mutable_normalizer_spec()->set_name("nmt_nfkc");
         m.mutable_normalizer_spec()->set_precompiled_charsmap("xyz");
       },
       absl::StatusCode::kUnimplemented, "normalizer_spec 'nmt_nfkc' has a precompiled_charsmap"},
      {[](Model& m) { AddPiece(&m, "u", 0, Piece::UNUSED); }, absl::StatusCode::kUnimplemented,
       "pieces[12] ('u') is of the type UNUSED"},
      {[](Model& m) { m.clear_pieces(); }, absl::StatusCode::kInvalidArgument, "there are no pieces"},
      {[](Model& m) { AddPiece(&m, "", 0); }, absl::StatusCode::kInvalidArgument, "pieces[12] is empty"},
      {[](Model& m) { AddPiece(&m, "a", 0); }, absl::StatusCode::kInvalidArgument, "token 'a' has two ids, 4 and 12"},
      {[](Model& m) { AddPiece(&m, "\xFF", 0); }, absl::StatusCode::kInvalidArgument, "pieces[12] is not UTF-8"},
      {[](Model& m) { AddPiece(&m, std::string(5000, 'x'), 0); }, absl::StatusCode::kInvalidArgument,
       "pieces[12] is 5000 bytes long"},
      {[](Model& m) { AddPiece(&m, "n", std::numeric_limits<float>::quiet_NaN()); }, absl::StatusCode::kInvalidArgument,
       "pieces[12].score is nan"},
  };
  for (const Row& row : rows) {
    Model model = SmallModel();
    row.damage(model);
    const absl::Status status = Tokenizer::FromSentencePiece(model.SerializeAsString()).status();
    EXPECT_EQ(status.code(), row.code) << status;
    EXPECT_THAT(std::string(Message(status)), HasSubstr(row.message));
  }
  const std::string good = SmallModel().SerializeAsString();
  for (size_t length = 0; length < good.size(); ++length) {  // cut off anywhere: an error, or a smaller model
    const auto cut = Tokenizer::FromSentencePiece(std::string_view(good).substr(0, length));
    if (!cut.ok()) {
      EXPECT_NE(std::string(Message(cut.status())), "");
    }
  }
  EXPECT_EQ(Tokenizer::FromSentencePiece("\xFF\xFFnonsense").status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace moed

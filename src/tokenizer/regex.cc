#include "tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "base/logging.h"
#include "base/status.h"
#include "tokenizer/regex_syntax.h"

namespace moed {
namespace {

// A pre-tokenizer's pattern needs a few steps a character; these stop only those that explode.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackBytes = 8 << 20;
constexpr size_t kMaxPatternBytes = 64 << 10;

std::string ErrorMessage(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct RegexScratch::State {
  State()
      : match_data(pcre2_match_data_create(1, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        jit_stack(pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)) {
    MOED_CHECK(match_data != nullptr && context != nullptr, "out of memory");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    if (jit_stack != nullptr) pcre2_jit_stack_assign(context, nullptr, jit_stack);
  }
  ~State() {
    pcre2_match_data_free(match_data);
    pcre2_match_context_free(context);
    if (jit_stack != nullptr) pcre2_jit_stack_free(jit_stack);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  pcre2_match_data* match_data;
  pcre2_match_context* context;
  pcre2_jit_stack* jit_stack;  // null where PCRE2 was built without its compiler
};

RegexScratch::RegexScratch() : state_(std::make_unique<State>()) {}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;
RegexScratch& RegexScratch::operator=(RegexScratch&&) noexcept = default;

struct Regex::Code {
  ~Code() { pcre2_code_free(code); }
  pcre2_code* code = nullptr;
  bool jit = false;
};

Regex::Regex(std::string pattern, std::unique_ptr<Code> code) : pattern_(std::move(pattern)), code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return InvalidArgument("the regular expression is {} bytes long; at most {} are allowed", pattern.size(),
                           kMaxPatternBytes);
  }
  MOED_ASSIGN_OR_RETURN(const std::string translated, TranslateToPcre2(pattern));
  // In Ruby's syntax ^ and $ match at every line, and a line ends at \n alone.
  constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  MOED_CHECK(context != nullptr, "out of memory");
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  auto code = std::make_unique<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), kOptions, &error,
                             &offset, context);
  pcre2_compile_context_free(context);
  if (code->code == nullptr) {
    return InvalidArgument("the regular expression '{}' does not compile: {}", pattern, ErrorMessage(error));
  }
  // Where the system forbids memory that is written and run, the interpreter matches the same.
  code->jit = pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE) == 0;
  return Regex(std::string(pattern), std::move(code));
}

Regex::Result Regex::Find(std::string_view text, size_t start, RegexScratch& scratch, Match* match) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  RegexScratch::State& state = *scratch.state_;
  const int found = code_->jit ? pcre2_jit_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                                                 state.match_data, state.context)
                               : pcre2_match(code_->code, subject, text.size(), start, PCRE2_NO_UTF_CHECK,
                                             state.match_data, state.context);
  if (found == PCRE2_ERROR_NOMATCH) return Result::kNoMatch;
  if (found < 0) return Result::kGaveUp;
  const size_t* offsets = pcre2_get_ovector_pointer(state.match_data);
  // \K can put the end before the beginning or the beginning before `start`; neither may run backwards.
  match->begin = offsets[0] < start ? start : offsets[0];
  match->end = offsets[1] < match->begin ? match->begin : offsets[1];
  return Result::kMatch;
}

}  // namespace moed

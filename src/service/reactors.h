// One reactor a call of Generate, GenerateStream, Chat and ChatStream: from a ResponseStream to the wire, without a
// thread of its own.
#ifndef MOED_SERVICE_REACTORS_H_
#define MOED_SERVICE_REACTORS_H_

#include <grpcpp/alarm.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <absl/time/clock.h>
#include <absl/time/time.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "moed/v1/inference.pb.h"
#include "service/convert.h"
#include "service/grpc_status.h"
#include "service/wire.h"
#include "serving/response_stream.h"
#include "serving/served_model.h"

namespace moed {

// A request that the serving loop has taken.
struct StartedRequest {
  std::shared_ptr<const ServedModel> model;
  std::shared_ptr<ResponseStream> stream;
};

// The messages of Generate and Chat differ in the name of one field.
inline void AppendText(const std::string& text, v1::GenerateResponse* to) { to->mutable_text()->append(text); }
inline void AppendText(const std::string& text, v1::ChatResponse* to) {
  to->mutable_message()->set_role("assistant");
  to->mutable_message()->mutable_content()->append(text);
}
inline void AppendText(const std::string& text, v1::GenerateStreamResponse* to) { to->set_text_delta(text); }
inline void AppendText(const std::string& text, v1::ChatStreamResponse* to) { to->set_content_delta(text); }

// Adds a chunk to a response; with the last one also why and what it took.
template <typename Response>
void AppendChunk(const ResponseChunk& chunk, const StartedRequest& request, Response* response) {
  AppendText(chunk.text, response);
  response->mutable_token_ids()->Add(chunk.token_ids.begin(), chunk.token_ids.end());
  for (const TokenLogprobs& logprobs : chunk.logprobs) {
    FillLogprobs(logprobs, request.model->tokenizer(), response->add_logprobs());
  }
  if (!chunk.last()) return;
  response->set_finish_reason(ToProto(chunk.finish));
  *response->mutable_usage() = ToUsage(chunk.stats);
  *response->mutable_timings() = ToTimings(chunk.stats);
}

// Collects the whole response, then sends it.
template <typename Response>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  // `bytes` belongs to the call and lives until OnDone.
  UnaryReactor(StartedRequest request, grpc::ByteBuffer* bytes) : request_(std::move(request)), bytes_(bytes) {
    response_.set_id(std::to_string(request_.stream->id()));
    response_.set_model(request_.model->name());
    Advance();
  }

  void OnCancel() override { request_.stream->Cancel(); }
  void OnDone() override { delete this; }

 private:
  void Advance() {
    while (auto chunk = request_.stream->Poll([this] { Advance(); })) {
      AppendChunk(*chunk, request_, &response_);
      if (!chunk->last()) continue;
      if (chunk->status.ok()) *bytes_ = SerializeResponse(response_);
      Finish(ToGrpcStatus(chunk->status));  // from here on the reactor may be gone
      return;
    }
  }

  const StartedRequest request_;
  grpc::ByteBuffer* const bytes_;
  Response response_;
};

// Writes one message at a time; what comes while a write is under way waits in the ResponseStream, whose bound holds
// the sequence back when the peer does not read. Once the request has ended, a peer that still does not read has a
// grace period, and then loses the call, with all that is held for it.
template <typename Response>
class StreamReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamReactor(StartedRequest request, grpc::CallbackServerContext* context)
      : request_(std::move(request)), shared_(std::make_shared<Shared>()) {
    shared_->context = context;
    request_.stream->OnFailureWhileHeldBack([this](const ResponseChunk& last) { CutOff(last); });
    request_.stream->OnEndWhileBusy([shared = shared_, grace = GraceToReadRest()] {
      std::lock_guard lock(shared->mutex);
      shared->ResetAfter(grace);
    });
    Advance();
  }

  void OnWriteDone(bool ok) override {
    peer_gone_ = peer_gone_ || !ok;
    if (!ok) request_.stream->Cancel();
    Advance();
  }
  void OnCancel() override { request_.stream->Cancel(); }
  void OnDone() override {
    {
      std::lock_guard lock(shared_->mutex);
      shared_->context = nullptr;
    }
    shared_->reset.Cancel();
    delete this;
  }

 private:
  // How long a peer that was cut off has to read the status before the connection's stream is reset.
  static constexpr absl::Duration kGraceToReadStatus = absl::Seconds(10);
  // How long one has to read what is left of a response that is complete.
  absl::Duration GraceToReadRest() const { return request_.model->loop().options().slow_reader_timeout; }

  // Outlives the reactor where a callback is still under way.
  struct Shared : std::enable_shared_from_this<Shared> {
    // With the mutex held; the first call counts. An alarm keeps its callback for good, so that must not keep the
    // alarm.
    void ResetAfter(absl::Duration grace) {
      if (context == nullptr || std::exchange(reset_is_set, true)) return;
      reset.Set(absl::ToChronoTime(absl::Now() + grace), [weak = this->weak_from_this()](bool expired) {
        const std::shared_ptr<Shared> shared = weak.lock();
        if (shared == nullptr || !expired) return;
        std::lock_guard lock(shared->mutex);
        if (shared->context != nullptr) shared->context->TryCancel();
      });
    }

    std::mutex mutex;                                // one operation of the call at a time
    bool finished = false;                           // Finish was called
    grpc::CallbackServerContext* context = nullptr;  // null when the call is done
    bool reset_is_set = false;
    grpc::Alarm reset;
  };

  void Advance() {
    const std::shared_ptr<Shared> shared = shared_;
    std::lock_guard lock(shared->mutex);
    if (shared->finished) return;
    if (end_status_) return End(*shared, *end_status_);
    while (auto chunk = request_.stream->Poll([this] { Advance(); })) {
      const bool worth_writing =
          !peer_gone_ && (!chunk->token_ids.empty() || !chunk->text.empty() || (chunk->last() && chunk->status.ok()));
      if (!worth_writing) {
        if (chunk->last()) return End(*shared, chunk->status);
        continue;
      }
      // What there is of a response that failed is sent before its status.
      if (chunk->last() && !chunk->status.ok()) {
        end_status_ = chunk->status;
        chunk->finish = FinishReason::kNone;
      }
      Write(*shared, *chunk);
      return;
    }
  }

  void Write(Shared& shared, const ResponseChunk& chunk) {
    Response response;
    response.set_id(std::to_string(request_.stream->id()));
    AppendChunk(chunk, request_, &response);
    bytes_ = SerializeResponse(response);
    if (chunk.last()) {
      shared.finished = true;
      shared.ResetAfter(GraceToReadRest());
      StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&bytes_);
    }
  }

  void End(Shared& shared, const absl::Status& status) {
    shared.finished = true;
    Finish(ToGrpcStatus(status));
  }

  // The sequence ended because the peer did not read: a write is under way that may never end. The status follows what
  // the peer has still to read, if it reads on soon.
  void CutOff(const ResponseChunk& last) {
    const std::shared_ptr<Shared> shared = shared_;
    std::lock_guard lock(shared->mutex);
    if (shared->finished) return;
    shared->ResetAfter(kGraceToReadStatus);
    End(*shared, last.status);
  }

  const StartedRequest request_;
  const std::shared_ptr<Shared> shared_;
  grpc::ByteBuffer bytes_;  // of the write under way
  bool peer_gone_ = false;
  std::optional<absl::Status> end_status_;  // to finish with when the last write is done
};

}  // namespace moed

#endif  // MOED_SERVICE_REACTORS_H_

// Runs small tasks away from the thread that must not wait.
#ifndef MOED_SERVING_NOTIFIER_H_
#define MOED_SERVING_NOTIFIER_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace moed {

// One thread that runs tasks in the order of their posting. Thread-safe. The number of tasks waiting is bounded by
// those who post: the serving loop posts at most one for a request that is read, and one when it ends.
class Notifier {
 public:
  using Task = std::function<void()>;

  Notifier();
  // Runs what was posted, then stops.
  ~Notifier();

  // Takes all tasks out of `tasks`.
  void Post(std::vector<Task>* tasks);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<Task> tasks_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace moed

#endif  // MOED_SERVING_NOTIFIER_H_

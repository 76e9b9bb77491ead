// A network compiled for fixed shapes: a flat list of operations over buffers whose places in one arena are planned once. Every
// operation is a call of a driver of csrc/ops; nothing is allocated and nothing decided while it runs.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "program/arena.h"

namespace qgemm {

// Some bytes of a buffer.
struct Place {
  int32_t buffer = 0;
  int64_t offset = 0;
};

// The addresses of all buffers during one run.
using Addresses = char* const*;

inline char* at(Addresses a, const Place& p) { return a[p.buffer] + p.offset; }

// What an operation costs, for its share of threads and for profiles.
struct Work {
  int64_t macs = 0;   // multiply-adds, 0 for what has none
  int64_t bytes = 0;  // read and written
};

class Program {
 public:
  using Run = std::function<void(Addresses)>;

  struct Op {
    int32_t step;        // of the caller's list of steps
    std::string layer;   // for messages
    std::string kernel;  // what runs it
    Run run;             // empty: the caller computes it between two segments
    Work work;
  };

  // Memory of one run, and nobody else's until it ends.
  class Frame {
   public:
    Addresses addresses() const { return at_.data(); }
    void bind(int32_t buffer, void* address) { at_[static_cast<size_t>(buffer)] = static_cast<char*>(address); }

   private:
    friend class Program;
    struct Free {
      void operator()(void* p) const;
    };
    static std::unique_ptr<void, Free> cleared(int64_t bytes);
    // `scratch_` of so many threads.
    void reserve(int threads, int64_t bytes);

    std::unique_ptr<void, Free> arena_;
    std::vector<char*> at_;
    // Of each thread but the first while it runs loops of its own: what `thread_bytes` says.
    std::vector<std::unique_ptr<void, Free>> scratch_;
  };

  // ---- building ----

  // A buffer of the arena; it lives from its first use to its last.
  int32_t arena(int64_t bytes);
  // Bytes that outlive the program and never move.
  int32_t constant(const void* address, int64_t bytes);
  // Bound by the caller in every frame.
  int32_t outside(int64_t bytes);
  int64_t buffer_bytes(int32_t buffer) const;

  // Operations added from here on belong to this step.
  void step(int32_t index, std::string layer) {
    step_ = index;
    layer_ = std::move(layer);
  }
  // `run` touches only `uses` (which includes every buffer an empty run stands for). in_place: the first of `uses`, whose bytes
  // the second may take over when nobody needs them afterwards: equal size, element by element.
  void add(std::string kernel, Work work, std::vector<int32_t> uses, Run run, bool in_place = false);
  // One more buffer that an operation uses.
  void use(size_t op, int32_t buffer) { uses_.at(op).buffers.push_back(buffer); }
  // Takes back all but the first `count` operations.
  void truncate(size_t count);

  // Operations added from here to end_loop() run `times` times in turn, each time on the next part of the buffers that advance.
  // They are built for one part, and one part's run reads nothing that another's writes.
  void begin_loop(int64_t times);
  // The next part of this buffer begins `step` bytes further on. False: another step has been given.
  bool advance(int32_t buffer, int64_t step);
  void end_loop();

  // Plans the arena. Nothing may be added afterwards.
  void finish();

  // ---- running ----

  std::unique_ptr<Frame> take() const;
  void give(std::unique_ptr<Frame> frame) const;
  // Operations [begin, end), none of them empty, and no loop in part. seconds: null, or one a operation, added to (where threads
  // run parts of a loop side by side, those of the first one). Throws what a driver throws, with the layer's name.
  void run(Frame& frame, size_t begin, size_t end, double* seconds = nullptr) const;

  const std::vector<Op>& ops() const { return ops_; }
  // How often one run of the program runs this operation.
  int64_t times(size_t op) const;
  const ArenaPlan& plan() const { return plan_; }
  // What each thread but the first needs beside the arena.
  int64_t thread_bytes() const { return thread_bytes_; }

 private:
  enum class Kind { arena, constant, outside };
  struct Buffer {
    Kind kind;
    int64_t bytes;
    const void* address;
  };
  struct Use {
    std::vector<int32_t> buffers;
    bool in_place;
  };

  // Operations [begin, end). What lives within one part of it has memory of its own, which every thread has.
  struct Loop {
    size_t begin, end;
    int64_t times;
    std::vector<std::pair<int32_t, int64_t>> advance;  // buffer, step
    std::vector<int32_t> within;                       // buffers
    int64_t bytes = 0;                                 // of those
    int64_t at = 0;                                    // where they begin in the arena
  };

  int32_t buffer(Kind kind, int64_t bytes, const void* address);
  void run_ops(Addresses addresses, size_t begin, size_t end, double* seconds) const;
  void run_all(Frame& frame, size_t begin, size_t end, double* seconds) const;
  void run_loop(const Loop& loop, Frame& frame, double* seconds) const;

  std::vector<Buffer> buffers_;
  std::vector<Op> ops_;
  std::vector<Use> uses_;
  std::vector<Loop> loops_;
  std::vector<int64_t> cost_;  // of all operations before this one, for the number of threads
  int32_t step_ = 0;
  std::string layer_;
  ArenaPlan plan_;
  int64_t thread_bytes_ = 0;
  std::vector<int64_t> place_;  // offset in the arena a buffer; -1: not there
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Frame>> idle_;
};

}  // namespace qgemm

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "graticule/halo/exchange.hpp"
#include "ops/call_trace.hpp"
#include "ops/parallel_tasks.hpp"
#include "ops/resample.hpp"
#include "ops/resample_loops.hpp"

namespace graticule::ops {
namespace {

using rows::Interval;

// Rows of fewer values than this are resampled as lines, not one by one.
constexpr int64_t shortest_row = 16;
// Bytes of one working buffer, which is to stay in the second cache: shorter rows are not tiled.
constexpr int64_t buffer_bytes = 262144;

// A dense tensor of three dimensions: `outer` x rows x `inner`, and inner = columns x unit.
struct Geometry {
  int64_t outer = 1;
  int64_t columns = 1;
  int64_t unit = 1;
  [[nodiscard]] int64_t inner() const { return columns * unit; }
};

Geometry geometry_of(const at::Tensor& t, int64_t dim, at::MemoryFormat format) {
  Geometry g;
  const bool channels_last = format != at::MemoryFormat::Contiguous;
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d == dim || (d == 1 && channels_last)) continue;
    (d < dim ? g.outer : g.columns) *= t.size(d);
  }
  if (channels_last) g.unit = t.size(1);
  return g;
}

// Where a run of source rows lies.
template <typename T>
struct Part {
  const T* data = nullptr;
  Interval rows;
};

// The source rows of this rank: its own, and what other ranks sent of those before and after them.
template <typename T>
struct Source {
  Part<T> before, own, after;
  int64_t inner = 1;

  [[nodiscard]] const T* row(int64_t outer, int64_t row) const {
    const Part<T>& part = own.rows.contains(row) ? own : row < own.rows.begin ? before : after;
    return part.data + (outer * part.rows.size() + row - part.rows.begin) * inner;
  }
};

// Work of one thread on result rows of a plane or of rows alone: what is reused from one row to the next.
template <typename T>
class Pass {
 public:
  Pass(const Resampling& r, const Source<T>& source, Geometry from, Geometry to, T* result)
      : r_(r), source_(source), from_(from), to_(to), result_(result) {}

  // Items [begin, end) of the result rows `rows` of every outer index, `outer` slowest.
  void run(int64_t begin, int64_t end, Interval rows) {
    const bool lines = to_.unit == 1;
    if (!r_.has_columns) return each(begin, end, rows, [&](int64_t o, int64_t row) { blend(o, row); });
    const int64_t step = lines ? to_.columns : tile_columns();
    const ResampleOrder order = lines ? r_.line_order : r_.pixel_order;
    for (int64_t tile = 0; tile < to_.columns; tile += step) {
      results_ = {tile, std::min(tile + step, to_.columns)};
      sources_ = lines ? Interval{0, from_.columns} : r_.columns.support(results_.begin, results_.end);
      if (order == ResampleOrder::at_once) {
        each(begin, end, rows, [&](int64_t o, int64_t row) { at_once(o, row); });
      } else if (order == ResampleOrder::columns_first) {
        prepare_ring();
        each(begin, end, rows, [&](int64_t o, int64_t row) { columns_then_rows(o, row); });
      } else {
        buffer_.assign(sources_.size() * from_.unit + 1, T(0));
        each(begin, end, rows, [&](int64_t o, int64_t row) { rows_then_columns(o, row); });
      }
    }
  }

 private:
  template <typename Use>
  void each(int64_t begin, int64_t end, Interval rows, const Use& use) {
    for (int64_t item = begin; item < end; ++item) use(item / rows.size(), rows.begin + item % rows.size());
  }

  [[nodiscard]] int64_t tile_columns() const {
    const int64_t values = buffer_bytes / static_cast<int64_t>(sizeof(T));
    const int64_t wider = std::max<int64_t>(1, from_.columns / std::max<int64_t>(to_.columns, 1));
    return std::max<int64_t>(1, values / std::max<int64_t>(1, to_.unit * wider));
  }

  [[nodiscard]] T* result_row(int64_t outer, int64_t row) const {
    return result_ + (outer * r_.rows.size() + row) * to_.inner() + results_.begin * to_.unit;
  }

  // The taps of a result row: rows_ holds where their sources are, from value `skip` of each on.
  int64_t find_sources(int64_t outer, int64_t row, int64_t skip) {
    const int64_t first = r_.rows.starts[row];
    const int64_t taps = r_.rows.taps(row);
    rows_.resize(taps);
    for (int64_t tap = 0; tap < taps; ++tap) rows_[tap] = source_.row(outer, r_.rows.sources[first + tap]) + skip;
    return taps;
  }

  [[nodiscard]] const T* weights(int64_t row) const { return r_.rows.weights.template data<T>() + r_.rows.starts[row]; }

  void blend(int64_t outer, int64_t row) {
    const int64_t taps = find_sources(outer, row, 0);
    blend_rows(result_row(outer, row), rows_.data(), weights(row), taps, to_.inner());
  }

  void at_once(int64_t outer, int64_t row) {
    const int64_t taps = find_sources(outer, row, sources_.begin * from_.unit);
    resample_pixels(result_row(outer, row), rows_.data(), weights(row), taps, pixel_columns());
  }

  void rows_then_columns(int64_t outer, int64_t row) {
    const int64_t taps = find_sources(outer, row, sources_.begin * from_.unit);
    const bool as_it_lies = taps == 1 && weights(row)[0] == T(1) && !(to_.unit == 1 && r_.column_line.padded);
    const T* line = as_it_lies ? rows_[0] : buffer_.data();
    if (!as_it_lies) blend_rows(buffer_.data(), rows_.data(), weights(row), taps, sources_.size() * from_.unit);
    resample_columns(result_row(outer, row), line);
  }

  void columns_then_rows(int64_t outer, int64_t row) {
    const int64_t first = r_.rows.starts[row];
    const int64_t taps = r_.rows.taps(row);
    rows_.resize(taps);
    for (int64_t tap = 0; tap < taps; ++tap) rows_[tap] = resampled(outer, r_.rows.sources[first + tap]);
    blend_rows(result_row(outer, row), rows_.data(), weights(row), taps, results_.size() * to_.unit);
  }

  void prepare_ring() {
    slots_ = std::max<int64_t>(r_.rows.widest_support(), 1);
    ring_.resize(slots_ * results_.size() * to_.unit);
    held_.assign(slots_, {-1, -1});
    buffer_.assign(to_.unit == 1 && r_.column_line.padded ? from_.columns + 1 : 0, T(0));
  }

  // The columns of a source row, kept while the result rows that share it go by.
  const T* resampled(int64_t outer, int64_t row) {
    const int64_t slot = row % slots_;
    T* const line = ring_.data() + slot * results_.size() * to_.unit;
    if (held_[slot] == std::pair{outer, row}) return line;
    const T* from = source_.row(outer, row) + sources_.begin * from_.unit;
    if (!buffer_.empty()) {
      std::copy(from, from + from_.columns, buffer_.data());
      from = buffer_.data();
    }
    resample_columns(line, from);
    held_[slot] = {outer, row};
    return line;
  }

  void resample_columns(T* to, const T* from) const {
    if (to_.unit == 1) {
      const LineTable& line = r_.column_line;
      resample_line(to, from, line.sources.data(), line.weights.template data<T>(), line.taps, line.size);
    } else {
      const T one(1);
      resample_pixels(to, &from, &one, 1, pixel_columns());
    }
  }

  [[nodiscard]] PixelColumns<T> pixel_columns() const {
    const ResampleTable& table = r_.columns;
    return {table.starts.data(),
            table.sources.data(),
            table.weights.template data<T>(),
            sources_.begin,
            results_.begin,
            results_.end,
            to_.unit};
  }

  const Resampling& r_;
  const Source<T>& source_;
  Geometry from_, to_;
  T* result_;
  Interval results_{0, 0}, sources_{0, 0};  // the columns at work
  std::vector<const T*> rows_;
  std::vector<T> buffer_;
  std::vector<T> ring_;
  std::vector<std::pair<int64_t, int64_t>> held_;
  int64_t slots_ = 1;
};

template <typename T>
void run_rows(const Resampling& r, const Source<T>& source, Geometry from, Geometry to, T* result, Interval rows) {
  const int64_t items = from.outer * rows.size();
  if (items == 0 || to.inner() == 0) return;
  const int64_t work = std::max(from.inner(), to.inner());
  for_tasks(items, work,
            [&](int64_t begin, int64_t end) { Pass<T>(r, source, from, to, result).run(begin, end, rows); });
}

// Rows of few values: the rows of one outer index make a line, put together where not all are this rank's.
template <typename T>
class LinePass {
 public:
  LinePass(const Resampling& r, const Source<T>& source, T* result)
      : r_(r), source_(source), result_(result), as_it_lies_(intersect(r.needed(), r.own()) == r.needed()) {
    // Behind the line lies the zero that padded tables ask for.
    if (!as_it_lies_ || padded()) line_.assign(r.needed().size() * source.inner + 1, T(0));
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t outer = begin; outer < end; ++outer) resample(line(outer), outer);
  }

 private:
  [[nodiscard]] bool padded() const { return source_.inner == 1 && r_.row_line.padded; }

  const T* line(int64_t outer) {
    if (line_.empty()) return source_.row(outer, r_.needed().begin);
    T* to = line_.data();
    for (const Part<T>& part : {source_.before, source_.own, source_.after}) {
      const Interval taken = intersect(part.rows, r_.needed());
      if (taken.empty()) continue;
      const T* const from = source_.row(outer, taken.begin);
      to = std::copy(from, from + taken.size() * source_.inner, to);
    }
    return line_.data();
  }

  void resample(const T* line, int64_t outer) const {
    T* const to = result_ + outer * r_.rows.size() * source_.inner;
    if (source_.inner == 1) {
      const LineTable& t = r_.row_line;
      resample_line(to, line, t.sources.data(), t.weights.template data<T>(), t.taps, t.size);
    } else {
      const ResampleTable& t = r_.rows;
      const T one(1);
      resample_pixels(to, &line, &one, 1,
                      {t.starts.data(), t.sources.data(), t.weights.template data<T>(), r_.needed().begin, 0, t.size(),
                       source_.inner});
    }
  }

  const Resampling& r_;
  const Source<T>& source_;
  T* result_;
  bool as_it_lies_;
  std::vector<T> line_;
};

template <typename T>
void run_lines(const Resampling& r, const Source<T>& source, int64_t outer, T* result) {
  if (r.rows.size() == 0 || source.inner == 0) return;
  const int64_t work = std::max(r.needed().size(), r.rows.size()) * source.inner;
  for_tasks(outer, work, [&](int64_t begin, int64_t end) { LinePass<T>(r, source, result).run(begin, end); });
}

using Outside = std::optional<halo::Gather>;

// What other ranks sent, in tensors that keep it alive.
template <typename T>
std::vector<at::Tensor> receive(Outside& outside, Source<T>& source, const Resampling& r, at::MemoryFormat format) {
  if (!outside.has_value()) return {};
  std::vector<at::Tensor> halos = outside->finish_parts();
  for (at::Tensor& halo : halos) halo = halo.contiguous(format);
  source.before = {halos[0].const_data_ptr<T>(), r.outside->result(0)};
  source.after = {halos[1].const_data_ptr<T>(), r.outside->result(1)};
  return halos;
}

template <typename T>
void resample(const at::Tensor& t, Outside& outside, at::Tensor& result, const Resampling& r, at::MemoryFormat format,
              int64_t dim) {
  const Geometry from = geometry_of(t, dim, format);
  Geometry to = from;
  if (r.has_columns) to.columns = r.columns.size();
  T* const data = result.mutable_data_ptr<T>();
  Source<T> source{{}, {t.const_data_ptr<T>(), r.own()}, {}, from.inner()};
  const bool as_lines = !r.has_columns && from.inner() < shortest_row;
  if (!as_lines) run_rows(r, source, from, to, data, r.early);
  const std::vector<at::Tensor> halos = receive(outside, source, r, format);
  if (as_lines) return run_lines(r, source, from.outer, data);
  run_rows(r, source, from, to, data, {0, r.early.begin});
  run_rows(r, source, from, to, data, {r.early.end, r.rows.size()});
}

at::Tensor resample_from(const at::Tensor& t, Outside& outside, const Resampling& r, at::MemoryFormat format,
                         int64_t dim) {
  at::Tensor result = at::empty(resampled_sizes(t.sizes(), r, dim), t.options().memory_format(format));
  AT_DISPATCH_FLOATING_TYPES(t.scalar_type(), "resample",
                             [&] { resample<scalar_t>(t, outside, result, r, format, dim); });
  return result;
}

// For traces.
const char* order_text(const Resampling& r, const Geometry& from) {
  if (!r.has_columns) return from.inner() < shortest_row ? "rows alone, as lines" : "rows alone";
  switch (from.unit == 1 ? r.line_order : r.pixel_order) {
    case ResampleOrder::rows_first:
      return "rows, then columns";
    case ResampleOrder::columns_first:
      return "columns, then rows";
    case ResampleOrder::at_once:
      break;
  }
  return "rows and columns at once";
}

}  // namespace

std::vector<int64_t> resampled_sizes(at::IntArrayRef sizes, const Resampling& r, int64_t dim) {
  std::vector<int64_t> result = sizes.vec();
  result[dim] = r.rows.size();
  if (r.has_columns) result[3] = r.columns.size();
  return result;
}

at::Tensor resample_on_cpu(const at::Tensor& tensor, const Resampling& r, at::MemoryFormat format,
                           const ResampleCall& call) {
  const at::Tensor t = tensor.contiguous(format);
  const CallTrace trace(call.layer, call.direction, t.is_same(tensor) ? "" : "a dense copy, ", "one pass of ",
                        order_text(r, geometry_of(t, call.dim, format)));
  Outside outside(std::in_place, t, r.outside, halo::Layout{call.dim}, call.domain, call.layer, r.facts);
  outside->keep_moving();
  return resample_from(t, outside, r, format, call.dim);
}

at::Tensor resample_uncut_on_cpu(const at::Tensor& t, const Resampling& r, at::MemoryFormat format, int64_t dim) {
  Outside nothing;
  return resample_from(t.contiguous(format), nothing, r, format, dim);
}

}  // namespace graticule::ops

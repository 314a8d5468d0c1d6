// Gather and fold against plain indexing of the whole tensor.
#include "graticule/halo/exchange.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "graticule/halo/plans.hpp"
#include "support/errors.hpp"
#include "support/threads.hpp"

namespace graticule::halo {
namespace {

using comm::Domain;
using rows::Boundary;
using rows::Interval;
using rows::Partition;
using support::contains;
using support::error_of;
using support::run_ranks;
using support::seconds_of;

using Offsets = std::vector<int64_t>;
using Wanted = std::vector<Interval>;

// One exchange: the whole tensor's shape, its cut, what each rank wants, and what stands beyond the grid.
struct Case {
  std::vector<int64_t> shape;  ///< without the rows, which offsets say
  Offsets offsets;
  Wanted wanted;
  Boundary boundary = Boundary::zeros;
  Layout layout{.dim = 0};
  at::ScalarType dtype = at::kDouble;

  [[nodiscard]] int ranks() const { return static_cast<int>(offsets.size()) - 1; }
  [[nodiscard]] std::vector<int64_t> sizes(int64_t rows) const {
    std::vector<int64_t> result = shape;
    result[layout.dim] = rows;
    return result;
  }
  [[nodiscard]] std::shared_ptr<const rows::ExchangePlan> plan(int rank) const {
    return find_plan(Partition(offsets), wanted, boundary, rank);
  }
};

// Whole numbers, so that sums are exact in every dtype.
at::Tensor random_values(at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed) {
  const int64_t count = c10::multiply_integers(sizes);
  const at::Tensor i = at::arange(count, at::kLong);
  const int64_t shift = static_cast<int64_t>(seed) * 17;
  return (i * 7919 + shift).remainder(101).sub(50).to(dtype).view(sizes);
}

at::Tensor own_rows(const at::Tensor& whole, const Case& c, int rank) {
  return whole.narrow(c.layout.dim, c.offsets[rank], c.offsets[rank + 1] - c.offsets[rank]);
}

// Row `row` of the grid extended by the boundary, by the definition of the boundaries, one step at a time.
at::Tensor extended_row(const at::Tensor& whole, const Case& c, int64_t row) {
  const int64_t dim = c.layout.dim;
  const int64_t count = whole.size(dim);
  bool across = false;
  while (row < 0 || row >= count) {
    const bool before = row < 0;
    switch (c.boundary) {
      case Boundary::none:
        ADD_FAILURE() << "row " << row << " lies beyond the grid";
        return {};
      case Boundary::zeros:
        return at::zeros_like(whole.select(dim, 0));
      case Boundary::replicate:
        row = before ? 0 : count - 1;
        break;
      case Boundary::circular:
        row += before ? count : -count;
        break;
      case Boundary::pole_on_row: {
        // Once around the globe, over both poles, is no step at all.
        const int64_t around = 2 * (count - 1);
        if (before || row >= around) {
          row += before ? around : -around;
        } else {
          across = true;
          row = around - row;
        }
        break;
      }
      case Boundary::reflect:
        row = before ? -row : 2 * (count - 1) - row;
        break;
      case Boundary::pole_between:
        across = !across;
        row = before ? -row - 1 : 2 * count - 1 - row;
        break;
    }
  }
  at::Tensor result = whole.select(dim, row);
  if (!across) return result;
  const int64_t lon = c.layout.lon_dim > dim ? c.layout.lon_dim - 1 : c.layout.lon_dim;
  result = at::roll(result, result.size(lon) / 2, lon);
  return c.layout.flip_sign ? -result : result;
}

at::Tensor expected_gather(const at::Tensor& whole, const Case& c, int rank) {
  const Interval want = c.wanted[rank];
  if (want.empty()) return at::empty(c.sizes(0), whole.options());
  std::vector<at::Tensor> rows;
  for (int64_t row = want.begin; row < want.end; ++row) rows.push_back(extended_row(whole, c, row));
  return at::stack(rows, c.layout.dim);
}

// The whole tensor's gradient of sum over ranks of <gather(whole), g[rank]>, by autograd through plain indexing.
at::Tensor expected_fold(const std::vector<at::Tensor>& g, const Case& c) {
  at::Tensor whole = at::zeros(c.sizes(c.offsets.back()), at::kDouble).requires_grad_();
  at::Tensor loss = whole.sum() * 0;
  for (int rank = 0; rank < c.ranks(); ++rank) {
    loss = loss + (expected_gather(whole, c, rank) * g[rank].to(at::kDouble)).sum();
  }
  loss.backward();
  return whole.grad();
}

// A failure on a rank's thread must say which case it was.
std::string text(const Case& c) {
  std::string result = c10::str("boundary ", static_cast<int>(c.boundary), ", offsets ", c10::IntArrayRef(c.offsets),
                                ", shape ", c10::IntArrayRef(c.shape), ", dim ", c.layout.dim, ", lon ",
                                c.layout.lon_dim, ", ", c.dtype, ", wanted");
  for (const Interval& want : c.wanted) result += c10::str(" [", want.begin, ", ", want.end, ")");
  return result;
}

// Ranks lay out their shards differently, as a program's own tensors may.
at::Tensor in_some_layout(const at::Tensor& t, int rank) {
  if (t.dim() == 4 && rank % 3 == 1) return t.contiguous(at::MemoryFormat::ChannelsLast);
  if (t.dim() == 5 && rank % 3 == 1) return t.contiguous(at::MemoryFormat::ChannelsLast3d);
  if (rank % 3 == 2) return t.transpose(0, -1).contiguous().transpose(0, -1);
  return t.contiguous();
}

void check_gather(const Case& c) {
  const at::Tensor whole = random_values(c.sizes(c.offsets.back()), c.dtype, 1);
  run_ranks(c.ranks(), [&](const Domain& domain) {
    const at::Tensor own = in_some_layout(own_rows(whole, c, domain.rank()), domain.rank());
    const at::Tensor result = Gather(own, c.plan(domain.rank()), c.layout, domain, "gather").finish();
    EXPECT_TRUE(at::equal(result, expected_gather(whole, c, domain.rank()))) << text(c);
    EXPECT_EQ(result.scalar_type(), c.dtype);
  });
}

void check_fold(const Case& c) {
  std::vector<at::Tensor> g;
  for (int rank = 0; rank < c.ranks(); ++rank) {
    g.push_back(random_values(c.sizes(c.wanted[rank].size()), c.dtype, 2 + rank));
  }
  const at::Tensor expected = expected_fold(g, c).to(c.dtype);
  run_ranks(c.ranks(), [&](const Domain& domain) {
    const at::Tensor part = in_some_layout(g[domain.rank()], domain.rank());
    const at::Tensor result = Fold(part, c.plan(domain.rank()), c.layout, domain, "fold").finish();
    EXPECT_TRUE(at::equal(result, own_rows(expected, c, domain.rank()))) << text(c);
    EXPECT_EQ(result.scalar_type(), c.dtype);
  });
}

void check(const Case& c) {
  check_gather(c);
  check_fold(c);
}

const Boundary every_boundary[] = {Boundary::none,        Boundary::zeros,    Boundary::reflect,
                                   Boundary::replicate,   Boundary::circular, Boundary::pole_on_row,
                                   Boundary::pole_between};

const Offsets cuts[] = {{0, 6},       {0, 3, 6},       {0, 1, 7},          {0, 0, 5},       {0, 5, 5},
                        {0, 2, 2, 6}, {0, 0, 0, 4, 4}, {0, 1, 2, 3, 4, 5}, {0, 4, 7, 7, 9}, {0, 2, 2, 2, 3, 8}};

// Halos of `before` and `after` rows around each shard; for `none` only as far as the grid goes.
Wanted with_halo(const Offsets& offsets, int64_t before, int64_t after, Boundary boundary) {
  Wanted result;
  for (size_t rank = 0; rank + 1 < offsets.size(); ++rank) {
    Interval want{offsets[rank] - before, offsets[rank + 1] + after};
    if (boundary == Boundary::none) want = rows::intersect(want, {0, offsets.back()});
    result.push_back(want);
  }
  return result;
}

TEST(GatherAndFold, EqualPlainIndexingForEveryBoundaryCutAndHalo) {
  int cases = 0;
  for (const Boundary boundary : every_boundary) {
    for (const Offsets& offsets : cuts) {
      for (const auto& [before, after] : {std::pair<int64_t, int64_t>{1, 1}, {0, 2}, {3, 0}, {11, 13}, {-1, 1}}) {
        Case c{{2, 0, 4}, offsets, with_halo(offsets, before, after, boundary), boundary, {.dim = 1, .lon_dim = 2}};
        check(c);
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 7 * 10 * 5);
}

TEST(GatherAndFold, EqualPlainIndexingForAnyWantedRows) {
  const Offsets offsets{0, 3, 3, 7};
  const Wanted wanteds[] = {{{0, 7}, {0, 7}, {0, 7}},    {{5, 7}, {0, 2}, {2, 4}}, {{0, 0}, {0, 7}, {0, 0}},
                            {{-3, -1}, {8, 12}, {3, 3}}, {{6, 6}, {2, 2}, {0, 0}}, {{-20, 20}, {0, 0}, {-1, 0}}};
  for (const Boundary boundary : every_boundary) {
    for (const Wanted& wanted : wanteds) {
      const bool beyond =
          std::any_of(wanted.begin(), wanted.end(), [](Interval i) { return i.begin < 0 || i.end > 7; });
      if (beyond && boundary == Boundary::none) continue;
      check({{2, 0, 4}, offsets, wanted, boundary, {.dim = 1, .lon_dim = 2}});
    }
  }
}

TEST(GatherAndFold, CutAnyDimensionOfAnyNumberOfThem) {
  const Offsets offsets{0, 2, 2, 5, 9};
  for (int64_t dims = 2; dims <= 5; ++dims) {
    for (int64_t dim = 0; dim < dims; ++dim) {
      for (int64_t lon = 0; lon < dims; ++lon) {
        if (lon == dim) continue;
        std::vector<int64_t> shape{3, 2, 3, 2, 3};
        shape.resize(dims);
        shape[lon] = 4;
        for (const Boundary boundary : {Boundary::reflect, Boundary::pole_on_row, Boundary::pole_between}) {
          check({shape, offsets, with_halo(offsets, 3, 2, boundary), boundary, {.dim = dim, .lon_dim = lon}});
        }
      }
    }
  }
}

TEST(GatherAndFold, FlipTheSignAcrossAPole) {
  const Offsets offsets{0, 2, 5, 5};
  for (const Boundary boundary : {Boundary::pole_on_row, Boundary::pole_between, Boundary::reflect}) {
    check({{2, 0, 6},
           offsets,
           with_halo(offsets, 7, 7, boundary),
           boundary,
           {.dim = 1, .lon_dim = 2, .flip_sign = true}});
  }
}

TEST(GatherAndFold, KeepEveryDtype) {
  const Offsets offsets{0, 2, 5};
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16}) {
    for (const Boundary boundary : {Boundary::zeros, Boundary::reflect, Boundary::replicate}) {
      check({{2, 3, 0, 4}, offsets, with_halo(offsets, 1, 1, boundary), boundary, {.dim = 2}, dtype});
    }
  }
  // Integers have no gradient to compare with; they are moved all the same.
  for (const auto dtype : {at::kLong, at::kInt, at::kByte, at::kBool}) {
    check_gather({{2, 0}, offsets, with_halo(offsets, 1, 1, Boundary::zeros), Boundary::zeros, {.dim = 1}, dtype});
  }
}

TEST(GatherAndFold, AreAdjoint) {
  const Offsets offsets{0, 4, 4, 9, 10};
  for (const Boundary boundary : every_boundary) {
    const Case c{{2, 3, 0, 6},
                 offsets,
                 with_halo(offsets, 5, 3, boundary),
                 boundary,
                 {.dim = 2, .lon_dim = 3, .flip_sign = true}};
    std::vector<double> left(c.ranks());
    std::vector<double> right(c.ranks());
    run_ranks(c.ranks(), [&](const Domain& domain) {
      const int rank = domain.rank();
      const at::Tensor x = random_values(c.sizes(offsets[rank + 1] - offsets[rank]), at::kDouble, 40 + rank);
      const at::Tensor y = random_values(c.sizes(c.wanted[rank].size()), at::kDouble, 50 + rank);
      left[rank] = (Gather(x, c.plan(rank), c.layout, domain, "gather").finish() * y).sum().item<double>();
      right[rank] = (Fold(y, c.plan(rank), c.layout, domain, "fold").finish() * x).sum().item<double>();
    });
    const auto total = [](const std::vector<double>& parts) {
      return std::accumulate(parts.begin(), parts.end(), 0.0);
    };
    EXPECT_NE(total(left), 0);
    EXPECT_EQ(total(left), total(right)) << "boundary " << static_cast<int>(boundary);
  }
}

TEST(GatherAndFold, KeepTheMemoryFormat) {
  const Offsets offsets{0, 3, 6};
  const Case c{{2, 3, 0, 4}, offsets, with_halo(offsets, 1, 1, Boundary::zeros), Boundary::zeros, {.dim = 2}};
  run_ranks(2, [&](const Domain& domain) {
    for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
      const at::Tensor own = random_values(c.sizes(3), at::kDouble, domain.rank()).contiguous(format);
      const at::Tensor wide = Gather(own, c.plan(domain.rank()), c.layout, domain, "gather").finish();
      EXPECT_TRUE(wide.is_contiguous(format));
      EXPECT_TRUE(Fold(wide, c.plan(domain.rank()), c.layout, domain, "fold").finish().is_contiguous(format));
    }
  });
}

TEST(GatherAndFold, StartAndFinishWithOtherTrafficBetween) {
  const Offsets offsets{0, 3, 4, 9};
  const Case c{{2, 0}, offsets, with_halo(offsets, 2, 2, Boundary::circular), Boundary::circular, {.dim = 1}};
  const at::Tensor first = random_values(c.sizes(9), at::kDouble, 1);
  const at::Tensor second = random_values(c.sizes(9), at::kDouble, 2);
  run_ranks(3, [&](const Domain& domain) {
    const int rank = domain.rank();
    Gather slow(own_rows(first, c, rank), c.plan(rank), c.layout, domain, "slow");
    Gather quick(own_rows(second, c, rank), c.plan(rank), c.layout, domain, "quick");
    Fold fold(expected_gather(first, c, rank), c.plan(rank), c.layout, domain, "fold");
    EXPECT_TRUE(at::equal(quick.finish(), expected_gather(second, c, rank)));
    const at::Tensor folded = fold.finish();
    EXPECT_TRUE(at::equal(slow.finish(), expected_gather(first, c, rank)));
    EXPECT_EQ(folded.size(1), offsets[rank + 1] - offsets[rank]);
  });
}

TEST(GatherAndFold, NothingTravelsThatIsNotWanted) {
  const Offsets offsets{0, 5, 10};
  const uint64_t before = comm::bytes_sent();
  const Case none{{3, 0}, offsets, with_halo(offsets, 0, 0, Boundary::zeros), Boundary::zeros, {.dim = 1}};
  check_gather(none);
  EXPECT_EQ(comm::bytes_sent(), before);
  const Case one{{3, 0}, offsets, with_halo(offsets, 1, 1, Boundary::zeros), Boundary::zeros, {.dim = 1}};
  check_gather(one);
  EXPECT_EQ(comm::bytes_sent() - before, 2 * 3 * sizeof(double));
}

TEST(Plans, AreMadeOnceAndFoundAgain) {
  const Wanted wanted = with_halo({0, 3, 7}, 1, 1, Boundary::zeros);
  const auto plan = find_plan(Partition({0, 3, 7}), wanted, Boundary::zeros, 0);
  EXPECT_EQ(find_plan(Partition({0, 3, 7}), wanted, Boundary::zeros, 0), plan);
  EXPECT_NE(find_plan(Partition({0, 3, 7}), wanted, Boundary::zeros, 1), plan);
  EXPECT_NE(find_plan(Partition({0, 3, 7}), wanted, Boundary::reflect, 0), plan);
  EXPECT_NE(find_plan(Partition({0, 4, 7}), wanted, Boundary::zeros, 0), plan);
  EXPECT_NE(find_plan(Partition({0, 3, 7}), with_halo({0, 3, 7}, 1, 2, Boundary::zeros), Boundary::zeros, 0), plan);
  EXPECT_EQ(plan->rank, 0);
  EXPECT_EQ(plan->result(), (Interval{-1, 4}));
}

TEST(Plans, ManyThreadsFindTheSameOne) {
  std::vector<std::shared_ptr<const rows::ExchangePlan>> found(4);
  run_ranks(4, [&](const Domain& domain) {
    const Wanted wanted = with_halo({0, 30, 70}, 5, 5, Boundary::circular);
    found[domain.rank()] = find_plan(Partition({0, 30, 70}), wanted, Boundary::circular, 1);
  });
  for (const auto& plan : found) EXPECT_EQ(plan, found[0]);
}

TEST(Plans, RefuseRowsBeyondAGridThatHasNothingThere) {
  EXPECT_THROW(find_plan(Partition({0, 3, 7}), {{-1, 3}, {3, 7}}, Boundary::none, 0), std::invalid_argument);
  EXPECT_THROW(find_plan(Partition({0, 1}), {{-1, 1}}, Boundary::reflect, 0), std::invalid_argument);
}

// A gather of one column over two ranks, with a change on rank 1 alone.
void gather_with(const Domain& domain, const Case& mine) {
  const Offsets& offsets = mine.offsets;
  const int64_t rows = offsets[domain.rank() + 1] - offsets[domain.rank()];
  Gather(at::ones(mine.sizes(rows), mine.dtype), mine.plan(domain.rank()), mine.layout, domain, "layer").finish();
}

Case plain_case() {
  const Offsets offsets{0, 4, 8};
  return {{3, 0, 4}, offsets, with_halo(offsets, 1, 1, Boundary::zeros), Boundary::zeros, {.dim = 1, .lon_dim = 2}};
}

void expect_errors(const std::function<void(Case&)>& change) {
  run_ranks(2, [&](const Domain& domain) {
    Case mine = plain_case();
    if (domain.rank() == 1) change(mine);
    EXPECT_LT(seconds_of([&] { EXPECT_TRUE(contains(error_of([&] { gather_with(domain, mine); }), "layer")); }), 10);
  });
}

TEST(ExchangeErrors, WhatDiffersOnOneRankIsAnErrorOnBoth) {
  expect_errors([](Case& c) { c.dtype = at::kFloat; });
  expect_errors([](Case& c) { c.shape[0] = 4; });
  expect_errors([](Case& c) { c.shape = {4, 0, 3}; });
  expect_errors([](Case& c) { c.shape = {12, 0}; });
  expect_errors([](Case& c) { c.boundary = Boundary::circular; });
  expect_errors([](Case& c) { c.wanted = with_halo(c.offsets, 2, 2, Boundary::zeros); });
}

TEST(ExchangeErrors, MessagesOfEqualSizeFromOtherCutsAreErrorsToo) {
  expect_errors([](Case& c) {
    c.offsets = {0, 3, 8};
    c.wanted = with_halo(c.offsets, 1, 1, Boundary::zeros);
  });
  // Rank 1 takes rank 0 to want another single row, and itself another one.
  expect_errors([](Case& c) { c.wanted = {{0, 6}, {2, 3}}; });
  expect_errors([](Case& c) { c.wanted[0].end = 6, c.wanted[1].end = 8; });
}

TEST(ExchangeErrors, AnotherViewAcrossThePoleOnOneRankIsAnErrorOnBoth) {
  const auto flipped = [](const Domain& domain) {
    Case mine = plain_case();
    mine.boundary = Boundary::pole_between;
    mine.layout.flip_sign = domain.rank() == 1;
    gather_with(domain, mine);
  };
  const auto turned = [](const Domain& domain) {
    Case mine = plain_case();
    mine.shape = {4, 0, 4};
    mine.boundary = Boundary::pole_between;
    mine.layout.lon_dim = domain.rank() == 1 ? 0 : 2;
    gather_with(domain, mine);
  };
  run_ranks(2, [&](const Domain& domain) { EXPECT_THROW(flipped(domain), c10::Error); });
  run_ranks(2, [&](const Domain& domain) { EXPECT_THROW(turned(domain), c10::Error); });
}

TEST(ExchangeErrors, AShapeThatCannotBeIsRefusedBeforeAnyMessage) {
  const uint64_t before = comm::bytes_sent();
  run_ranks(2, [](const Domain& domain) {
    const Case c = plain_case();
    const auto gather = [&](at::IntArrayRef shape, Layout layout) {
      return error_of([&] { Gather(at::ones(shape), c.plan(domain.rank()), layout, domain, "layer"); });
    };
    EXPECT_TRUE(contains(gather({3, 4, 4}, {.dim = 3}), "layer: the cut dimension 3 is not one of a tensor of 3"));
    EXPECT_TRUE(contains(gather({3, 4, 4}, {.dim = -1}), "the cut dimension -1"));
    const auto pole = find_plan(Partition(c.offsets), c.wanted, Boundary::pole_between, domain.rank());
    const auto gather_pole = [&](at::IntArrayRef shape, int64_t lon) {
      return error_of([&] { Gather(at::ones(shape), pole, {.dim = 1, .lon_dim = lon}, domain, "layer"); });
    };
    EXPECT_TRUE(contains(gather_pole({3, 4, 5}, 2), "an even number of longitudes"));
    EXPECT_TRUE(contains(gather_pole({3, 4, 4}, -1), "the dimension of the longitudes"));
    EXPECT_TRUE(contains(gather_pole({3, 4, 4}, 1), "the dimension of the longitudes"));
    const auto three = find_plan(Partition({0, 2, 3, 4}), {{0, 2}, {2, 3}, {3, 4}}, Boundary::zeros, 0);
    const auto other_ranks = [&] { Gather(at::ones({3, 2, 4}), three, {.dim = 1}, domain, "layer"); };
    EXPECT_TRUE(contains(error_of(other_ranks), "cut over 3 ranks, the domain has 2"));
    const auto one = find_plan(Partition({0, 4}), {{0, 4}}, Boundary::zeros, domain.rank());
    const auto fewer_ranks = [&] { Gather(at::ones({3, 4, 4}), one, {.dim = 1}, domain, "layer"); };
    EXPECT_TRUE(contains(error_of(fewer_ranks), "cut over 1 ranks, the domain has 2"));
    // Wrong rows on this rank may be right ones on the others, which must hear of it.
    EXPECT_TRUE(contains(gather({3, 5, 4}, {.dim = 1}),
                         c10::str("layer: expected 4 rows in dimension 1 on rank ", domain.rank(), ", got 5")));
  });
  EXPECT_EQ(comm::bytes_sent(), before);
}

TEST(ExchangeErrors, WrongRowsOnOneRankReachTheOtherAtOnce) {
  run_ranks(2, [](const Domain& domain) {
    const Case c = plain_case();
    const at::Tensor x = at::ones({3, domain.rank() == 0 ? 4 : 5, 4});
    const auto call = [&] { Gather(x, c.plan(domain.rank()), c.layout, domain, "layer").finish(); };
    const std::string expected = domain.rank() == 0 ? "rank 1 failed" : "expected 4 rows";
    EXPECT_LT(seconds_of([&] { EXPECT_TRUE(contains(error_of(call), expected)); }), 10);
  });
}

// Both ends of a shard, wanted apart: one message to each neighbour all the same.
TEST(Gather, SeveralPartsTravelInOneMessage) {
  const Offsets offsets{0, 5, 9, 14};
  const at::Tensor whole = random_values({2, 3, 14, 4}, at::kFloat, 1);
  const std::vector<Wanted> parts{{{-2, 1}, {3, 6}, {7, 10}}, {{4, 7}, {8, 11}, {12, 16}}};
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const uint64_t before = comm::messages_sent();
    run_ranks(3, [&](const Domain& domain) {
      const int rank = domain.rank();
      const auto plan = std::make_shared<const rows::ExchangePlan>(Partition(offsets), parts, Boundary::zeros, rank);
      const at::Tensor own = whole.narrow(2, offsets[rank], offsets[rank + 1] - offsets[rank]).contiguous(format);
      const std::vector<at::Tensor> results = Gather(own, plan, {.dim = 2}, domain, "parts").finish_parts();
      ASSERT_EQ(results.size(), 2U);
      const at::Tensor padded = at::constant_pad_nd(whole, {0, 0, 2, 2});
      for (size_t part = 0; part < 2; ++part) {
        const Interval wanted = parts[part][rank];
        EXPECT_TRUE(at::equal(results[part], padded.narrow(2, wanted.begin + 2, wanted.size())));
        EXPECT_TRUE(results[part].is_contiguous(format));
      }
    });
    EXPECT_EQ(comm::messages_sent() - before, 4U);
  }
}

}  // namespace
}  // namespace graticule::halo

// Exhaustive brute-force tests of the index algebra.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <stdexcept>

#include "graticule/rows/boundary.hpp"
#include "graticule/rows/exchange_plan.hpp"
#include "graticule/rows/partition.hpp"
#include "graticule/rows/resampling.hpp"
#include "graticule/rows/stencil.hpp"

namespace graticule::rows {
namespace {

TEST(Interval, DivisionRoundsTowardsTheRightSide) {
  for (int64_t a = -20; a <= 20; ++a) {
    for (int64_t b = 1; b <= 7; ++b) {
      EXPECT_LE(floor_div(a, b) * b, a);
      EXPECT_GT((floor_div(a, b) + 1) * b, a);
      EXPECT_GE(ceil_div(a, b) * b, a);
      EXPECT_LT((ceil_div(a, b) - 1) * b, a);
      EXPECT_EQ(modulo(a, b), ((a % b) + b) % b);
    }
  }
}

TEST(Partition, BalancedCutsCoverEveryRowOnce) {
  for (int64_t rows = 0; rows <= 40; ++rows) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      const Partition p = Partition::balanced(rows, ranks);
      ASSERT_EQ(p.rows(), rows);
      ASSERT_EQ(p.ranks(), ranks);
      int64_t covered = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        EXPECT_EQ(p.offsets()[rank], rank * rows / ranks);
        const Interval own = p.interval(rank);
        covered += own.size();
        EXPECT_GE(own.size(), rows / ranks);
        EXPECT_LE(own.size(), rows / ranks + 1);
        for (int64_t row = own.begin; row < own.end; ++row) EXPECT_EQ(p.owner(row), rank);
      }
      EXPECT_EQ(covered, rows);
    }
  }
  EXPECT_EQ(Partition::balanced(37, 4).offsets(), (std::vector<int64_t>{0, 9, 18, 27, 37}));
}

TEST(Partition, OwnerSkipsEmptyShards) {
  const Partition p({0, 0, 3, 3, 3, 5});
  EXPECT_EQ(p.owner(0), 1);
  EXPECT_EQ(p.owner(2), 1);
  EXPECT_EQ(p.owner(3), 4);
}

TEST(Partition, RefusesWhatIsNoCut) {
  EXPECT_THROW(Partition({0}), std::invalid_argument);
  EXPECT_THROW(Partition({1, 2}), std::invalid_argument);
  EXPECT_THROW(Partition({0, 3, 2}), std::invalid_argument);
  EXPECT_THROW(Partition::balanced(-1, 2), std::invalid_argument);
  EXPECT_THROW(Partition::balanced(3, 0), std::invalid_argument);
}

TEST(Partition, OutputKeepsTheInputsCutWhereItCan) {
  const Partition own({0, 1, 7, 10});
  EXPECT_EQ(output_partition(own, 10), own);
  EXPECT_EQ(output_partition(own, 5), Partition::balanced(5, 3));
}

TEST(Boundary, AgreesWithTheDefinitionStepByStep) {
  for (int64_t rows = 1; rows <= 6; ++rows) {
    for (int64_t row = -20; row < rows + 20; ++row) {
      const bool inside = 0 <= row && row < rows;
      EXPECT_EQ(source_row(Boundary::zeros, row, rows).row, inside ? row : -1);
      EXPECT_EQ(source_row(Boundary::replicate, row, rows).row, std::min(std::max<int64_t>(row, 0), rows - 1));
      EXPECT_EQ(source_row(Boundary::circular, row, rows).row, ((row % rows) + rows) % rows);
      // Mirrors, walked one reflection at a time.
      int64_t at = row;
      bool across = false;
      while (at < 0 || at >= rows) {
        at = at < 0 ? -1 - at : 2 * rows - 1 - at;
        across = !across;
      }
      EXPECT_EQ(source_row(Boundary::pole_between, row, rows), (Source{at, across}));
      if (rows < 2) continue;
      at = row;
      across = false;
      while (at < 0 || at >= rows) {
        at = at < 0 ? -at : 2 * (rows - 1) - at;
        across = !across;
      }
      const Source seen = source_row(Boundary::pole_on_row, row, rows);
      EXPECT_EQ(seen.row, at);
      // A row on a pole belongs to both sides of it: only the rows of the grid itself must be seen as they are.
      const bool on_pole = at == 0 || at == rows - 1;
      if (!on_pole || inside) {
        EXPECT_EQ(seen.across_pole, across);
      }
      EXPECT_EQ(source_row(Boundary::reflect, row, rows), (Source{at, false}));
    }
  }
}

TEST(Boundary, RefusesWhatItCannotSay) {
  EXPECT_THROW((void)source_row(Boundary::none, -1, 4), std::invalid_argument);
  EXPECT_THROW((void)source_row(Boundary::reflect, -1, 1), std::invalid_argument);
  EXPECT_THROW((void)source_row(Boundary::replicate, 0, 0), std::invalid_argument);
  EXPECT_THROW((void)boundary_from_name("mirror", true), std::invalid_argument);
  EXPECT_EQ(boundary_from_name("pole", true), Boundary::pole_on_row);
  EXPECT_EQ(boundary_from_name("pole", false), Boundary::pole_between);
}

TEST(Stencil, IntervalsAreThoseOfTheWindows) {
  for (int64_t kernel = 1; kernel <= 5; ++kernel) {
    for (int64_t stride = 1; stride <= 5; ++stride) {
      for (int64_t padding = 0; padding <= 4; ++padding) {
        for (int64_t dilation = 1; dilation <= 3; ++dilation) {
          const Stencil s{kernel, stride, padding, dilation};
          for (int64_t begin = -3; begin <= 6; ++begin) {
            for (int64_t end = begin + 1; end <= 8; ++end) {
              int64_t low = INT64_MAX;
              int64_t high = INT64_MIN;
              for (int64_t o = begin; o < end; ++o) {
                for (int64_t k = 0; k < kernel; ++k) {
                  low = std::min(low, o * stride - padding + dilation * k);
                  high = std::max(high, o * stride - padding + dilation * k);
                }
              }
              EXPECT_EQ(fine_rows(s, {begin, end}), (Interval{low, high + 1}));

              const Interval coarse = coarse_rows(s, {begin, end});
              const Interval covered = fine_rows(s, coarse);
              EXPECT_LE(covered.begin, begin);
              EXPECT_GE(covered.end, end);
              std::set<int64_t> touching;
              for (int64_t o = -30; o <= 30; ++o) {
                for (int64_t k = 0; k < kernel; ++k) {
                  const int64_t row = o * stride - padding + dilation * k;
                  if (begin <= row && row < end) touching.insert(o);
                }
              }
              for (const int64_t o : touching) EXPECT_TRUE(coarse.contains(o));
              if (stride <= s.span() && dilation == 1) {
                EXPECT_EQ(coarse, (Interval{*touching.begin(), *touching.rbegin() + 1}));
              }
            }
          }
        }
      }
    }
  }
}

TEST(Stencil, HaloWidths) {
  EXPECT_EQ(halo_width({3, 1, 1, 1}), 1);
  EXPECT_EQ(halo_width({32, 2, 15, 1}), 15);
  EXPECT_EQ(halo_width({4, 4, 0, 1}), 0);
  EXPECT_EQ(halo_width({3, 1, 2, 2}), 2);
  EXPECT_EQ(transposed_halo_width({4, 2, 1, 1}), 1);
  EXPECT_EQ(transposed_halo_width({4, 4, 0, 1}), 0);
}

// Every rank's plan, followed by hand: what arrives is what the boundary says, and sends match receives.
TEST(ExchangePlan, DeliversEveryWantedRow) {
  const std::vector<Boundary> boundaries{Boundary::zeros,    Boundary::reflect,     Boundary::replicate,
                                         Boundary::circular, Boundary::pole_on_row, Boundary::pole_between};
  for (const Boundary boundary : boundaries) {
    for (int64_t rows = 2; rows <= 9; ++rows) {
      for (int ranks = 1; ranks <= 5; ++ranks) {
        const Partition partition = Partition::balanced(rows, ranks);
        for (int64_t before = 0; before <= 4; ++before) {
          for (int64_t after = 0; after <= 4; ++after) {
            std::vector<Interval> wanted;
            for (int rank = 0; rank < ranks; ++rank) {
              wanted.push_back({partition.interval(rank).begin - before, partition.interval(rank).end + after});
            }
            std::map<std::pair<int, int>, int64_t> sent;
            for (int rank = 0; rank < ranks; ++rank) {
              const ExchangePlan plan(partition, wanted, boundary, rank);
              for (const PeerSegments& peer : plan.sends) sent[{rank, peer.peer}] = peer.rows;
            }
            for (int rank = 0; rank < ranks; ++rank) {
              const ExchangePlan plan(partition, wanted, boundary, rank);
              std::map<int64_t, Source> got;
              const auto follow = [&](const Segment& segment, int owner) {
                ASSERT_EQ(segment.owner, owner);
                for (int64_t i = 0; i < segment.count; ++i) {
                  const int64_t row = owner < 0 ? -1 : segment.source + segment.step * i;
                  if (owner >= 0) {
                    ASSERT_TRUE(partition.interval(owner).contains(row));
                  }
                  ASSERT_TRUE(got.emplace(segment.wanted + i, Source{row, segment.across_pole}).second);
                }
              };
              for (const Segment& segment : plan.local) follow(segment, segment.owner < 0 ? -1 : rank);
              for (const PeerSegments& peer : plan.receives) {
                EXPECT_NE(peer.peer, rank);
                EXPECT_EQ((sent[{peer.peer, rank}]), peer.rows);
                sent.erase({peer.peer, rank});
                for (const Segment& segment : peer.segments) follow(segment, peer.peer);
              }
              ASSERT_EQ(static_cast<int64_t>(got.size()), wanted[rank].size());
              for (const auto& [row, source] : got) {
                const Source expected = source_row(boundary, row, rows);
                EXPECT_EQ(source.row, expected.row);
                if (expected.row >= 0) {
                  EXPECT_EQ(source.across_pole, expected.across_pole);
                }
              }
            }
            EXPECT_TRUE(sent.empty()) << "a message that nobody receives";
          }
        }
      }
    }
  }
}

TEST(ResamplingKind, WeightsAddUpToOne) {
  for (const auto kind : {ResamplingKind::linear, ResamplingKind::cubic, ResamplingKind::linear_antialias,
                          ResamplingKind::cubic_antialias, ResamplingKind::area}) {
    for (int64_t input = 1; input <= 12; ++input) {
      for (int64_t output = 1; output <= 25; ++output) {
        for (const bool align : {false, true}) {
          for (int64_t row = 0; row < output; ++row) {
            const auto taps = resampling_taps<double>(kind, {input, output, align, std::nullopt}, row);
            double sum = 0;
            for (const double weight : taps.weights) sum += weight;
            EXPECT_NEAR(sum, 1, 1e-12);
            EXPECT_GE(taps.support().begin, 0);
            EXPECT_LE(taps.support().end, input);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace graticule::rows

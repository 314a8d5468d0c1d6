// Brute-force tests of which rows a shard gives by itself.
#include "graticule/rows/seams.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "graticule/rows/partition.hpp"

namespace graticule::rows {
namespace {

// Calls `check` with many stencils and cuts of a convolution's fine and coarse rows.
void for_each_cut(const std::function<void(const Stencil&, const Partition& fine, const Partition& coarse)>& check) {
  for (int64_t kernel = 1; kernel <= 5; ++kernel) {
    for (int64_t stride = 1; stride <= 3; ++stride) {
      for (int64_t padding = 0; padding <= 3; ++padding) {
        for (int64_t dilation = 1; dilation <= 2; ++dilation) {
          const Stencil s{kernel, stride, padding, dilation};
          for (const int64_t rows : {1, 7, 12, 23}) {
            const int64_t outputs = coarse_size(s, rows, padding);
            if (outputs < 1) continue;
            for (int ranks = 1; ranks <= 4; ++ranks) {
              check(s, Partition::balanced(rows, ranks), Partition::balanced(outputs, ranks));
            }
          }
        }
      }
    }
  }
}

// Whether the window of coarse row `row` takes fine row `at`.
bool touches(const Stencil& s, int64_t row, int64_t at) {
  const int64_t offset = at - (row * s.stride - s.padding);
  return offset >= 0 && offset < s.span() && offset % s.dilation == 0;
}

TEST(Seams, EveryRowOutsideThemHasItsWholeWindowInTheShard) {
  int64_t inside = 0;
  for_each_cut([&](const Stencil& s, const Partition& fine, const Partition& coarse) {
    for (int rank = 0; rank < fine.ranks(); ++rank) {
      const Interval source = fine.interval(rank);
      const Interval target = coarse.interval(rank);
      const Seams seams = coarse_seams(s, target, source, fine.rows());
      EXPECT_EQ(seams.before.begin, target.begin);
      EXPECT_EQ(seams.after.end, target.end);
      for (int64_t row = seams.before.end; row < seams.after.begin; ++row) {
        ++inside;
        for (int64_t at = 0; at < fine.rows(); ++at) {
          EXPECT_TRUE(source.contains(at) || !touches(s, row, at)) << "row " << row << " takes row " << at;
        }
      }
    }
  });
  EXPECT_GT(inside, 1000);
}

TEST(Seams, EveryFineRowOutsideThemIsTouchedByTheShardAlone) {
  int64_t inside = 0;
  for_each_cut([&](const Stencil& s, const Partition& fine, const Partition& coarse) {
    for (int rank = 0; rank < fine.ranks(); ++rank) {
      const Interval source = coarse.interval(rank);
      const Interval target = fine.interval(rank);
      const Seams seams = fine_seams(s, target, source, coarse.rows());
      EXPECT_EQ(seams.before.begin, target.begin);
      EXPECT_EQ(seams.after.end, target.end);
      for (int64_t at = seams.before.end; at < seams.after.begin; ++at) {
        ++inside;
        for (int64_t row = 0; row < coarse.rows(); ++row) {
          EXPECT_TRUE(source.contains(row) || !touches(s, row, at)) << "row " << row << " touches row " << at;
        }
      }
    }
  });
  EXPECT_GT(inside, 1000);
}

// Windows go round: a row stands at all its places, one grid apart, and windows one grid of coarse rows apart are one.
TEST(Seams, GoRoundACircularGrid) {
  int64_t inside = 0;
  for_each_cut([&](const Stencil& s, const Partition& fine, const Partition& coarse) {
    if (!goes_round(s, fine.rows(), coarse.rows())) return;
    for (int rank = 0; rank < fine.ranks(); ++rank) {
      const Interval source = coarse.interval(rank);
      const Interval target = fine.interval(rank);
      const Seams forward = coarse_seams(s, source, target, fine.rows(), true);
      for (int64_t row = forward.before.end; row < forward.after.begin; ++row) {
        ++inside;
        for (int64_t at = -2 * fine.rows(); at < 3 * fine.rows(); ++at) {
          EXPECT_TRUE(target.contains(at) || !touches(s, row, at)) << "row " << row << " takes row " << at;
        }
      }
      const Seams backward = fine_seams(s, target, source, coarse.rows(), true);
      for (int64_t at = backward.before.end; at < backward.after.begin; ++at) {
        ++inside;
        for (int64_t row = -2 * coarse.rows(); row < 3 * coarse.rows(); ++row) {
          EXPECT_TRUE(source.contains(row) || !touches(s, row, at)) << "row " << row << " touches row " << at;
        }
      }
    }
  });
  EXPECT_GT(inside, 300);
}

TEST(Seams, AreNoWiderThanTheHalo) {
  for (const Stencil& s : {Stencil{3, 1, 1, 1}, Stencil{4, 2, 1, 1}, Stencil{32, 2, 15, 1}, Stencil{4, 4, 0, 1}}) {
    const int64_t rows = 360;
    const Partition fine = Partition::balanced(rows, 3);
    const Partition coarse = Partition::balanced(coarse_size(s, rows, s.padding), 3);
    const Seams seams = coarse_seams(s, coarse.interval(1), fine.interval(1), rows);
    EXPECT_EQ(seams.before.size(), ceil_div(s.padding, s.stride));
    EXPECT_EQ(seams.after.size(), ceil_div(std::max<int64_t>(s.span() - s.stride - s.padding, 0), s.stride));
  }
}

TEST(LocalFit, TheLocalWindowsAreTheGlobalOnes) {
  int64_t fitting = 0;
  for_each_cut([&](const Stencil& s, const Partition& fine, const Partition& coarse) {
    for (int rank = 0; rank < fine.ranks(); ++rank) {
      const Interval from = fine.interval(rank);
      const Interval to = coarse.interval(rank);
      const LocalFit fit = fit_convolution(s, from, to);
      if (!fit.fits) continue;
      ++fitting;
      EXPECT_EQ(coarse_size({s.kernel, s.stride, fit.padding, s.dilation}, from.size(), fit.padding), to.size());
      // Window j of the shard begins at local row j * stride - padding.
      EXPECT_EQ(from.begin - fit.padding, to.begin * s.stride - s.padding);
    }
  });
  EXPECT_GT(fitting, 300);
}

TEST(LocalFit, TheTransposedLocalRowsAreTheGlobalOnes) {
  int64_t fitting = 0;
  for (int64_t kernel = 1; kernel <= 5; ++kernel) {
    for (int64_t stride = 1; stride <= 3; ++stride) {
      for (int64_t padding = 0; padding < kernel; ++padding) {
        for (int64_t more = 0; more < stride; ++more) {
          const Stencil s{kernel, stride, padding, 1};
          const int64_t outputs = fine_size(s, 12, more);
          if (outputs < 3) continue;
          const Partition coarse = Partition::balanced(12, 3);
          const Partition fine = Partition::balanced(outputs, 3);
          for (int rank = 0; rank < 3; ++rank) {
            const LocalFit fit = fit_transposed(s, coarse.interval(rank), fine.interval(rank), more);
            if (!fit.fits) continue;
            ++fitting;
            EXPECT_EQ(fit.output_padding, more);
            // Row 0 of the local result is global row coarse.begin * stride - padding + local padding.
            EXPECT_EQ(coarse.interval(rank).begin * stride - padding + fit.padding, fine.interval(rank).begin);
          }
        }
      }
    }
  }
  EXPECT_GT(fitting, 30);
}

TEST(LocalFit, TheUsualLayersFit) {
  const auto fits = [](const Stencil& s, int64_t rows) {
    const Partition fine = Partition::balanced(rows, 2);
    const Partition coarse = Partition::balanced(coarse_size(s, rows, s.padding), 2);
    return fit_convolution(s, fine.interval(0), coarse.interval(0)).fits &&
           fit_convolution(s, fine.interval(1), coarse.interval(1)).fits;
  };
  for (const int64_t rows : {360, 721}) {
    EXPECT_TRUE(fits({3, 1, 1, 1}, rows));
    EXPECT_TRUE(fits({1, 1, 0, 1}, rows));
    EXPECT_TRUE(fits({3, 2, 1, 1}, rows));
  }
  EXPECT_TRUE(fits({4, 2, 1, 1}, 960));
  EXPECT_TRUE(fits({8, 2, 3, 1}, 960));
  EXPECT_TRUE(fits({32, 2, 15, 1}, 960));
  EXPECT_TRUE(fits({4, 4, 0, 1}, 640));
}

}  // namespace
}  // namespace graticule::rows

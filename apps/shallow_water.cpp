#include "shallow_water.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "graticule/comm/collectives.hpp"
#include "graticule/ops/row_exchange.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule::apps {
namespace {

// The value one column to the east, and to the west.
at::Tensor east(const at::Tensor& t) { return at::roll(t, {-1}, {-1}); }
at::Tensor west(const at::Tensor& t) { return at::roll(t, {1}, {-1}); }

// Rows [0, n - 1) and [1, n) of n.
at::Tensor but_last(const at::Tensor& t) { return t.narrow(-2, 0, t.size(-2) - 1); }
at::Tensor but_first(const at::Tensor& t) { return t.narrow(-2, 1, t.size(-2) - 1); }
at::Tensor sum_of_neighbours(const at::Tensor& t) { return but_last(t) + but_first(t); }
at::Tensor inner(const at::Tensor& t, int64_t margin) { return t.narrow(-2, margin, t.size(-2) - 2 * margin); }

at::Tensor column(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble).view({static_cast<int64_t>(values.size()), 1});
}

ShallowWaterOptions checked(ShallowWaterOptions options, const std::optional<comm::Domain>& domain) {
  const SphereGrid& grid = options.grid;
  TORCH_CHECK_VALUE(grid.rows >= 4 && grid.columns >= 4 && grid.columns % 2 == 0,
                    "shallow water needs at least 4 rows and an even number of columns, at least 4; got ", grid.rows,
                    " x ", grid.columns);
  const int ranks = domain ? domain->size() : 1;
  if (options.offsets.empty()) options.offsets = rows::Partition::balanced(grid.rows, ranks).offsets();
  const rows::Partition partition(options.offsets);
  TORCH_CHECK_VALUE(partition.ranks() == ranks && partition.rows() == grid.rows, "shallow water: the offsets cut ",
                    partition.rows(), " rows over ", partition.ranks(), " ranks, the grid has ", grid.rows, " rows on ",
                    ranks, " ranks");
  return options;
}

std::vector<std::vector<double>> filtered_latitudes(const SphereGrid& grid, int64_t first, int64_t count) {
  std::vector<double> rows, edges;
  for (int64_t row = first; row < first + count; ++row) {
    rows.push_back(grid.row_latitude(row));
    edges.push_back(grid.edge_latitude(row));
  }
  return {rows, rows, edges};
}

}  // namespace

ShallowWater::ShallowWater(ShallowWaterOptions options, std::optional<comm::Domain> domain)
    : options_(checked(std::move(options), domain)), domain_(std::move(domain)) {
  const int rank = domain_ ? domain_->rank() : 0;
  first_row_ = options_.offsets[rank];
  local_rows_ = options_.offsets[rank + 1] - first_row_;
  extended_metric_ = make_metric(first_row_ - halo, local_rows_ + 2 * halo);
  coriolis_ = make_coriolis();
  inside_ = (extended_metric_.edge_cosine.narrow(0, halo, local_rows_) > 0).to(at::kDouble);
  const auto latitudes = filtered_latitudes(options_.grid, first_row_, local_rows_);
  filter_.emplace(latitudes, options_.grid.columns, 1);
  diffusion_filter_.emplace(std::vector<std::vector<double>>{latitudes[1], latitudes[2]}, options_.grid.columns, 4);
}

ShallowWater::Metric ShallowWater::make_metric(int64_t first, int64_t count) const {
  const SphereGrid& grid = options_.grid;
  std::vector<double> rows, inverse_rows, edges, inverse_edges;
  for (int64_t row = first; row < first + count; ++row) {
    const bool pole = row == 0 || row == grid.rows;
    rows.push_back(std::cos(grid.row_latitude(row)));
    inverse_rows.push_back(1 / rows.back());
    edges.push_back(pole ? 0 : std::cos(grid.edge_latitude(row)));
    inverse_edges.push_back(pole ? 0 : 1 / edges.back());
  }
  return {column(rows), column(inverse_rows), column(edges), column(inverse_edges)};
}

at::Tensor ShallowWater::make_coriolis() const {
  const SphereGrid& grid = options_.grid;
  at::Tensor result = at::empty({local_rows_ + 1, grid.columns}, at::kDouble);
  double* out = result.mutable_data_ptr<double>();
  for (int64_t edge = first_row_; edge <= first_row_ + local_rows_; ++edge) {
    const double latitude = grid.edge_latitude(edge);
    for (int64_t face = 0; face < grid.columns; ++face) {
      *out++ = 2 * earth_rotation *
               (std::sin(latitude) * std::cos(options_.axis_angle) -
                std::cos(grid.face_longitude(face)) * std::cos(latitude) * std::sin(options_.axis_angle));
    }
  }
  return result;
}

at::Tensor ShallowWater::extended_alone(const at::Tensor& fields) const {
  const auto across = [&](int64_t first) {
    return at::roll(fields.narrow(2, first, halo).flip({2}), {options_.grid.columns / 2}, {3});
  };
  return at::cat({across(0), fields, across(options_.grid.rows - halo)}, 2);
}

// The fields with `halo` more rows on either side. Beyond a pole stands the other side of it; u changes sign there. v
// lies on edges, so that its rows beyond a pole are not the ones that the cells' rule gives: they stay unused, and only
// the edge on the pole itself gets its value, from both sides.
at::Tensor ShallowWater::extended(const at::Tensor& fields) const {
  at::Tensor result;
  if (domain_) {
    ops::RowExchange exchange;
    exchange.offsets = options_.offsets;
    for (int rank = 0; rank < domain_->size(); ++rank) {
      const bool empty = options_.offsets[rank] == options_.offsets[rank + 1];
      exchange.begins.push_back(options_.offsets[rank] - (empty ? 0 : halo));
      exchange.ends.push_back(options_.offsets[rank + 1] + (empty ? 0 : halo));
    }
    exchange.boundary = "pole";
    exchange.dim = 2;
    exchange.lon_dim = 3;
    exchange.row_on_pole = false;
    exchange.group = domain_->name();
    result = ops::gather_rows(fields, exchange);
  } else {
    result = extended_alone(fields);
  }
  if (local_rows_ == 0) return result;
  const int64_t beyond_north = std::max<int64_t>(0, halo - first_row_);
  const int64_t beyond_south = std::max<int64_t>(0, first_row_ + local_rows_ + halo - options_.grid.rows);
  at::Tensor u = result.select(0, 1);
  u.narrow(1, 0, beyond_north).neg_();
  u.narrow(1, u.size(1) - beyond_south, beyond_south).neg_();
  at::Tensor v = result.select(0, 2);
  set_pole_wind(v, first_row_ - halo);
  return result;
}

// The wind at a pole as seen along a meridian: the mean of the next edges on both sides, which flips across the pole.
void ShallowWater::set_pole_wind(at::Tensor& v, int64_t first_edge) const {
  const SphereGrid& grid = options_.grid;
  for (const auto& [pole, next] : {std::pair<int64_t, int64_t>{0, 1}, {grid.rows, grid.rows - 1}}) {
    if (pole < first_edge || pole >= first_edge + v.size(1)) continue;
    const at::Tensor near = v.select(1, next - first_edge);
    v.select(1, pole - first_edge).copy_((near - at::roll(near, {grid.columns / 2}, {-1})) / 2);
  }
}

// At the corners of the edges [first + 1, first + rows), from rows and edges [first, first + rows).
at::Tensor ShallowWater::vorticity(const at::Tensor& u, const at::Tensor& v, const Metric& metric,
                                   int64_t first) const {
  const SphereGrid& grid = options_.grid;
  const at::Tensor along = u * metric.row_cosine;
  const at::Tensor edges = but_first(v);
  at::Tensor result =
      ((east(edges) - edges) / grid.longitude_step() + (but_first(along) - but_last(along)) / grid.latitude_step()) *
      (but_first(metric.inverse_edge_cosine) / earth_radius);
  for (const auto& [pole, row] : {std::pair<int64_t, int64_t>{0, 0}, {grid.rows, grid.rows - 1}}) {
    if (pole <= first || pole >= first + u.size(-2)) continue;
    const double cap = earth_radius * (1 - std::sin(std::numbers::pi / 2 - grid.latitude_step() / 2));
    const at::Tensor circulation = along.select(-2, row - first).mean(-1, true);
    result.select(-2, pole - first - 1).copy_((circulation / (pole == 0 ? cap : -cap)).expand_as(result.select(-2, 0)));
  }
  return result;
}

// At rows [first, first + rows - 1), from rows and edges [first, first + rows).
at::Tensor ShallowWater::divergence(const at::Tensor& u, const at::Tensor& v, const Metric& metric) const {
  const at::Tensor across = v * metric.edge_cosine;
  const at::Tensor faces = but_last(u);
  return ((faces - west(faces)) / options_.grid.longitude_step() +
          (but_last(across) - but_first(across)) / options_.grid.latitude_step()) *
         (but_last(metric.inverse_row_cosine) / earth_radius);
}

// grad div - curl curl of the wind: u and v on one row fewer on either side than given, the first of which is `first`.
std::vector<at::Tensor> ShallowWater::laplacian(const at::Tensor& u, const at::Tensor& v, int64_t first) const {
  const SphereGrid& grid = options_.grid;
  const int64_t skip = first - (first_row_ - halo);
  const auto part = [&](const at::Tensor& t) { return t.narrow(0, skip, u.size(-2)); };
  const Metric metric{part(extended_metric_.row_cosine), part(extended_metric_.inverse_row_cosine),
                      part(extended_metric_.edge_cosine), part(extended_metric_.inverse_edge_cosine)};
  const double dy = earth_radius * grid.latitude_step();
  const double dx = earth_radius * grid.longitude_step();
  const at::Tensor div = divergence(u, v, metric);
  const at::Tensor curl = vorticity(u, v, metric, first);
  const at::Tensor rows = but_first(div);
  const at::Tensor edges = but_last(curl);
  return {(east(rows) - rows) * inner(metric.inverse_row_cosine, 1) / dx - (edges - but_first(curl)) / dy,
          (but_last(div) - rows) / dy + (edges - west(edges)) * inner(metric.inverse_edge_cosine, 1) / dx};
}

at::Tensor ShallowWater::tendency(const at::Tensor& fields) const {
  check_shape(fields);
  const at::Tensor wide = extended(fields);
  if (local_rows_ == 0) return at::zeros_like(fields);
  const SphereGrid& grid = options_.grid;
  const double dy = earth_radius * grid.latitude_step();
  const double dx = earth_radius * grid.longitude_step();
  const auto near = [](const at::Tensor& t) { return inner(t, halo - 1); };
  const Metric metric{near(extended_metric_.row_cosine), near(extended_metric_.inverse_row_cosine),
                      near(extended_metric_.edge_cosine), near(extended_metric_.inverse_edge_cosine)};
  const at::Tensor h = near(wide.select(0, 0)), u = near(wide.select(0, 1)), v = near(wide.select(0, 2));

  const at::Tensor edge_height = sum_of_neighbours(h) / 2;
  const at::Tensor northward = but_first(v) * edge_height;
  const at::Tensor eastward = u * (h + east(h)) / 2;
  const at::Tensor corner_height = (edge_height + east(edge_height)) / 2;
  const at::Tensor vorticity_of_column = (vorticity(u, v, metric, first_row_ - 1) + coriolis_) / corner_height;
  const at::Tensor u_squared = but_last(u * u);
  const at::Tensor head = but_last(h) * earth_gravity + (u_squared + west(u_squared) + sum_of_neighbours(v * v)) / 4;
  const at::Tensor own_head = but_first(head);

  at::Tensor result = at::empty_like(fields);
  const at::Tensor transport_north = northward * but_first(metric.edge_cosine);
  const at::Tensor own_eastward = inner(eastward, 1);
  result.select(0, 0).copy_(
      ((west(own_eastward) - own_eastward) / dx + (but_first(transport_north) - but_last(transport_north)) / dy) *
      inner(metric.inverse_row_cosine, 1));
  result.select(0, 1).copy_(sum_of_neighbours(vorticity_of_column) * sum_of_neighbours(northward + east(northward)) /
                                8 -
                            (east(own_head) - own_head) * inner(metric.inverse_row_cosine, 1) / dx);
  const at::Tensor north_vorticity = but_last(vorticity_of_column);
  const at::Tensor north_eastward = but_last(eastward);
  result.select(0, 2).copy_(inside_ * ((head.narrow(-2, 1, local_rows_) - but_last(head)) / dy -
                                       (north_vorticity + west(north_vorticity)) *
                                           sum_of_neighbours(north_eastward + west(north_eastward)) / 8));
  filter_->apply_(result);
  return result;
}

double ShallowWater::stable_step(const at::Tensor& fields) const {
  check_shape(fields);
  at::Tensor largest = at::zeros({3}, at::kDouble);
  if (fields.numel() > 0) largest = fields.abs().amax({1, 2, 3});
  if (domain_) {
    for (const at::Tensor& theirs : comm::all_gather(*domain_, largest, "shallow water (step)")) {
      largest = at::maximum(largest, theirs);
    }
  }
  const double* most = largest.const_data_ptr<double>();
  const double speed = std::sqrt(earth_gravity * most[0]) + most[1] + most[2];
  TORCH_CHECK(std::isfinite(speed), "shallow water: the fields are not finite any more: a shorter step or more ",
              "diffusion is needed");
  const double dy = earth_radius * options_.grid.latitude_step();
  const double dx = earth_radius * options_.grid.longitude_step() * std::cos(std::numbers::pi / 3);
  // The Runge-Kutta scheme is stable for frequencies up to 2 sqrt(2) / step; the grid's largest is that of its shortest
  // wave.
  const double waves = std::sqrt(2.0) / (speed * std::sqrt(1 / (dx * dx) + 1 / (dy * dy)));
  if (options_.diffusion_time <= 0) return options_.courant * waves;
  const double shortest = 1 + dy * dy / (dx * dx);
  return options_.courant * std::min(waves, 2 * options_.diffusion_time / (shortest * shortest));
}

at::Tensor ShallowWater::runge_kutta(const at::Tensor& fields, double step) const {
  const at::Tensor first = tendency(fields);
  const at::Tensor second = tendency(fields + first * (step / 2));
  const at::Tensor third = tendency(fields + second * (step / 2));
  const at::Tensor fourth = tendency(fields + third * step);
  return fields + (first + (second + third) * 2 + fourth) * (step / 6);
}

void ShallowWater::diffuse_(at::Tensor& fields, double step) const {
  if (options_.diffusion_time <= 0) return;
  const at::Tensor wide = extended(fields);
  if (local_rows_ == 0) return;
  const auto once = laplacian(wide.select(0, 1), wide.select(0, 2), first_row_ - halo);
  const auto twice = laplacian(once[0], once[1], first_row_ - halo + 1);
  at::Tensor change = at::stack({twice[0], twice[1] * inside_});
  diffusion_filter_->apply_(change);
  const double dy = earth_radius * options_.grid.latitude_step();
  fields.narrow(0, 1, 2).sub_(change, step * std::pow(dy / 2, 4) / options_.diffusion_time);
}

at::Tensor ShallowWater::advance(const at::Tensor& fields, double seconds) const {
  const auto steps = static_cast<int64_t>(std::ceil(seconds / stable_step(fields)));
  const double step = seconds / static_cast<double>(steps);
  at::Tensor now = fields;
  for (int64_t i = 0; i < steps; ++i) {
    now = runge_kutta(now, step);
    diffuse_(now, step);
  }
  return now;
}

at::Tensor ShallowWater::centred(const at::Tensor& fields) const {
  check_shape(fields);
  const at::Tensor wide = extended(fields);
  if (local_rows_ == 0) return fields.clone();
  const at::Tensor h = fields.select(0, 0), u = fields.select(0, 1);
  const at::Tensor v = wide.select(0, 2).narrow(1, halo, local_rows_ + 1);
  return at::stack({h, (u + west(u)) / 2, sum_of_neighbours(v) / 2});
}

at::Tensor ShallowWater::mean_height(const at::Tensor& fields) const {
  check_shape(fields);
  const SphereGrid& grid = options_.grid;
  at::Tensor rows = at::zeros({grid.rows, fields.size(1)}, at::kDouble);
  rows.narrow(0, first_row_, local_rows_)
      .copy_((fields.select(0, 0).mean(2) * inner(extended_metric_.row_cosine, halo).view({-1})).t());
  if (domain_) comm::all_reduce_sum_(*domain_, rows, "shallow water (mean height)");
  double area = 0;
  for (int64_t row = 0; row < grid.rows; ++row) area += std::cos(grid.row_latitude(row));
  return rows.sum(0) / area;
}

void ShallowWater::check_shape(const at::Tensor& fields) const {
  TORCH_CHECK_VALUE(fields.dim() == 4 && fields.size(0) == 3 && fields.size(2) == local_rows_ &&
                        fields.size(3) == options_.grid.columns && fields.scalar_type() == at::kDouble,
                    "shallow water expects float64 fields (3, runs, ", local_rows_, ", ", options_.grid.columns,
                    "), got ", fields.scalar_type(), " ", fields.sizes());
}

}  // namespace graticule::apps

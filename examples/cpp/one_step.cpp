#include <graticule/graticule.hpp>
#include <graticule/mpi/mpi.hpp>
#include <iostream>

int main() {
  graticule::mpi::initialize();
  const auto domain = graticule::mpi::create_domain(MPI_COMM_WORLD, "world");
  torch::manual_seed(0);  // the same weights and data on every rank
  torch::nn::Conv2d conv(torch::nn::Conv2dOptions(3, 16, 3).stride(2).padding(1));
  const auto whole = torch::randn({1, 3, 721, 64});  // 721 rows: the cut need not be even

  graticule::DomainParallelConv2d layer(conv, -2, domain);
  const auto forecast = layer->forward(graticule::shard_tensor(whole, -2, domain));
  forecast.square().sum().backward();
  graticule::sync_domain_gradients(layer->parameters(), domain);

  const auto rows = graticule::gather_tensor(forecast.detach(), -2, domain);
  if (domain.rank() == 0) {
    std::cout << rows.sizes() << ", norm of the output " << rows.norm().item<float>() << ", of the gradient "
              << conv->weight.grad().norm().item<float>() << '\n';
  }
  graticule::mpi::finalize();
}

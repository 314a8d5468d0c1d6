// The transport and the layers over real MPI processes.
#include "graticule/mpi/mpi.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/graticule.hpp"
#include "graticule/rows/partition.hpp"

namespace graticule {
namespace {

class Mpi : public ::testing::Test {
 protected:
  void SetUp() override {
    static int number = 0;
    name_ = "test" + std::to_string(number++);
    mpi::create_group(MPI_COMM_WORLD, name_);
  }
  void TearDown() override { mpi::destroy_group(name_); }
  [[nodiscard]] comm::Domain domain() const { return comm::Domain::from_group_name(name_); }

 private:
  std::string name_;
};

TEST_F(Mpi, CollectivesAgree) {
  const comm::Domain d = domain();
  EXPECT_EQ(comm::gather_sizes(d, d.rank() + 1, "test").back(), d.size() * (d.size() + 1) / 2);
  for (const int64_t count : {3, 100000}) {
    at::Tensor t = at::full({count}, d.rank() + 1, at::kDouble);
    comm::all_reduce_sum_(d, t, "test");
    EXPECT_TRUE(at::equal(t, at::full_like(t, d.size() * (d.size() + 1) / 2)));
  }
}

TEST_F(Mpi, ConvolutionIsTheUncutOne) {
  const comm::Domain d = domain();
  for (const int64_t rows : {1, 5, 37}) {
    at::manual_seed(7);
    torch::nn::Conv2d conv(torch::nn::Conv2dOptions(3, 4, 5).stride(2).padding(2));
    conv->to(at::kDouble);
    const at::Tensor x = at::randn({2, 3, rows, 6}, at::kDouble);
    const at::Tensor serial_x = x.clone().requires_grad_();
    const at::Tensor y = conv->forward(serial_x);
    const at::Tensor g = at::randn_like(y);
    y.backward(g);
    const at::Tensor weight_gradient = conv->weight.grad().clone();
    conv->zero_grad();

    DomainParallelConv2d cut(conv, -2, d);
    const at::Tensor own = shard_tensor(x, 2, d).requires_grad_();
    const at::Tensor own_y = cut->forward(own);
    own_y.backward(shard_tensor(g, 2, d));
    sync_domain_gradients(conv->parameters(), d);
    EXPECT_TRUE(at::allclose(own_y, shard_tensor(y, 2, d), 1e-12, 1e-13));
    EXPECT_TRUE(at::allclose(own.grad(), shard_tensor(serial_x.grad(), 2, d), 1e-12, 1e-13));
    EXPECT_TRUE(at::allclose(conv->weight.grad(), weight_gradient, 1e-12, 1e-12));
  }
}

TEST_F(Mpi, AMessageOfAnotherSizeIsAnErrorOnEveryRank) {
  setenv("GRATICULE_TIMEOUT", "5", 1);
  const comm::Domain d = domain();
  const int peer = d.rank() ^ 1;
  if (peer < d.size()) {
    // Rank 0 believes that messages are of 5 numbers, the others that they are of 7.
    const int64_t count = d.rank() == 0 ? 5 : 7;
    const auto send = comm::make_buffer({1}, at::TensorOptions(at::kFloat), {count});
    const auto receive = comm::make_buffer({1}, at::TensorOptions(at::kFloat), {count});
    const auto exchange = [&] { comm::start_exchange(d, {{peer, send}}, {{peer, receive}}, "test").wait(); };
    if (d.rank() < 2) {
      EXPECT_THROW(exchange(), c10::Error);
      EXPECT_THROW(exchange(), c10::Error) << "a domain that has failed stays so";
    } else {
      exchange();
    }
  }
  unsetenv("GRATICULE_TIMEOUT");
}

}  // namespace
}  // namespace graticule

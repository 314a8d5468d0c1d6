// A group over every rank for each test.
#pragma once

#include <gtest/gtest.h>
#include <mpi.h>

#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/mpi/mpi.hpp"

namespace graticule::support {

class OverMpi : public ::testing::Test {
 protected:
  void SetUp() override {
    static int number = 0;
    name_ = "test" + std::to_string(number++);
    mpi::create_group(MPI_COMM_WORLD, name_);
  }
  void TearDown() override { mpi::destroy_group(name_); }
  [[nodiscard]] comm::Domain domain() const { return comm::Domain::from_group_name(name_); }
  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  std::string name_;
};

}  // namespace graticule::support

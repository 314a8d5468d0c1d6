// Everything a C++ program needs: the layers, the domain, the exchange primitive.
#pragma once

#include "graticule/comm/domain.hpp"
#include "graticule/nn/conv.hpp"
#include "graticule/nn/group_norm.hpp"
#include "graticule/nn/halo_exchange.hpp"
#include "graticule/nn/interpolate.hpp"
#include "graticule/nn/periodic_conv.hpp"
#include "graticule/nn/sharding.hpp"
#include "graticule/ops/row_exchange.hpp"

